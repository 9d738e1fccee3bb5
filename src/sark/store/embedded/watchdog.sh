# Runs a server for as long as the process that started this script lives.
#
#   sh watchdog.sh GRACE SERVER CONFIG [TEMPORARY_DIRECTORY...]
#
# The script has to lead a process group of its own. What it inherits:
#   stdin   a pipe that only the parent holds open and never writes to: end of file is its death,
#           be it by kill -9
#   stdout  a locked file; the server alone keeps it, so the lock says whether the server lives
#   stderr  the log
#
# Signals go to the whole group, never to a process id: an id may be in use again after the server
# has ended by itself, a group cannot while one of its processes is there to send. The guard also
# works when the main shell has been killed.
set -u
grace=$1 server=$2 config=$3
shift 3
PATH="${PATH:-}:/usr/bin:/bin"

# Background jobs get /dev/null as their stdin, hence the pipe moves to 3.
exec 3<&0 4>&1 </dev/null >&2

"$server" "$config" 3<&- &
pid=$!

# From here on the group's TERM is for the server. Not earlier: the server must not inherit this.
trap '' TERM
exec 4>&-

(
    read -r _ <&3
    kill -TERM 0
    rounds=$((grace * 10))
    while [ "$rounds" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do
        sleep 0.1 || sleep 1
        rounds=$((rounds - 1))
    done
    [ "$#" -eq 0 ] || rm -rf -- "$@"
    kill -KILL 0
) 4>&- &
guard=$!
exec 3<&-

wait "$pid"
status=$?
kill -KILL "$guard"
wait "$guard" 2>/dev/null
[ "$#" -eq 0 ] || rm -rf -- "$@"
exit "$status"
