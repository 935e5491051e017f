#!/bin/sh
# Stop the beat that start_celery_beat.sh started, and wait until it is gone.
cd "$(dirname "$0")" || exit 1
pidfile=var/celerybeat.pid
if [ ! -s "$pidfile" ]; then
    echo "Celery beat is not running: there is no $pidfile."
    exit 0
fi
pid=$(cat "$pidfile")

# After a crash or a reboot, the number may be another process's by now.
is_beat() {
    if [ -r "/proc/$pid/cmdline" ]; then
        arguments=$(tr '\0' ' ' <"/proc/$pid/cmdline")
    elif ! arguments=$(ps -o args= -p "$pid" 2>/dev/null); then
        # Gone; or nobody here can say what it is, as in an image without ps: then it is taken for what the file says.
        kill -0 "$pid" 2>/dev/null
        return
    fi
    case $arguments in
    *workers*beat*) ;;
    *) return 1 ;;
    esac
}

if ! is_beat; then
    rm -f "$pidfile"
    echo "Celery beat was not running: process $pid, named by $pidfile, is gone. The file is removed."
    exit 0
fi
if ! kill "$pid"; then
    echo "Celery beat (process $pid) is not yours to stop: run this as the user who started it." >&2
    exit 1
fi
waited=0
while kill -0 "$pid" 2>/dev/null; do
    if [ "$waited" -ge 30 ]; then
        echo "Celery beat (process $pid) did not stop within 30 seconds: look at its log, or kill -9 $pid." >&2
        exit 1
    fi
    sleep 1
    waited=$((waited + 1))
done
echo "Celery beat (process $pid) has stopped."
