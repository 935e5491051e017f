from benchmarks.contenders.peers import Surroundings, run

run("benchmarks.contenders.procrastinate_app.peer", workers=Surroundings.told().workers)
