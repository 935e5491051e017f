from benchmarks.contenders import Surroundings, run

run("benchmarks.contenders.procrastinate_app.peer", workers=Surroundings.told().workers)
