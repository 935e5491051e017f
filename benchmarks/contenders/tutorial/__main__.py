from benchmarks.contenders.peers import Surroundings, run

_told = Surroundings.told()
run("benchmarks.contenders.tutorial.peer", workers=_told.workers if _told.connections else 1)
