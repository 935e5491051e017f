from benchmarks.contenders.peers import Surroundings, run

# It forks its processes by itself.
run("benchmarks.contenders.post_office.peer", workers=1, pushes=Surroundings.told().profile == "celery")
