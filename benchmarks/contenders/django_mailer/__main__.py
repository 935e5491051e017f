from benchmarks.contenders.peers import Surroundings, run

run("benchmarks.contenders.django_mailer.peer", workers=Surroundings.told().connections or 1)
