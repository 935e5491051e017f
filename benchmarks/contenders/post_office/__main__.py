from benchmarks.contenders import run

run("benchmarks.contenders.post_office.peer", workers=1, pushes=False)  # it forks its processes by itself
