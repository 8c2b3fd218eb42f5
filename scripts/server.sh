# For scripts to source: a server of their own on loopback and a free port, with SQLite and storage in a folder, which leaves
# when the script does.
#
#   start_server FOLDER    sets HONE_SERVER and $address; $FOLDER/job may name a job to cancel when the script is broken off
bin=${CARGO_TARGET_DIR:-target}/debug

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

leave() {
    # A script that was broken off leaves no job that the next one would have to finish first; one that ended stays.
    if [ -s "$home/job" ]; then "$bin/hone" jobs cancel "$(cat "$home/job")" >/dev/null 2>&1 || true; fi
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
}

start_server() {
    home=$1
    trap 'echo "stopped here; the server and the trainer wrote to $home/server.log" >&2' ERR
    mkdir -p "$home"
    rm -f "$home/port" "$home/job"
    # In a session of its own, so that Ctrl-C reaches it once, as this script's word to stop.
    setsid "$bin/hone-server" --listen 127.0.0.1:0 --port-file "$home/port" --data-dir "$home" >"$home/server.log" 2>&1 &
    server=$!
    trap leave EXIT
    until [ -s "$home/port" ]; do
        kill -0 "$server" 2>/dev/null || { echo "the server did not start:" >&2; tail -n 5 "$home/server.log" >&2; exit 1; }
        sleep 0.1
    done
    address=$(cat "$home/port")
    export HONE_SERVER="http://$address"
}
