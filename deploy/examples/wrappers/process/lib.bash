# A staging as one HTTP server process on this host, for trying things out without Kubernetes.
#
# Settings by environment: STAGINGS_DIR (default $HOME/stagings), LISTEN_ADDRESS (default 127.0.0.1),
# START_LIMIT_SECONDS (default 60). A staging lives in $STAGINGS_DIR/<project>/<namespace>/<name>/:
#   data/       its disk: survives update and archive, goes with cleanup
#   settings/   what the last create or update asked for; may hold secrets, hence the umask
#   server.pid  held locked by the running server for as long as it lives, so "does it run" has no race and a reused
#               pid cannot be taken for it
#   port, server.log
# Every operation can be repeated after a cut: it looks at what is there and goes on from it.

set -euo pipefail
umask 077
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=SCRIPTDIR/../contract.bash
source "$here/contract.bash"

# Reads the arguments and finds the staging's folder.
open_staging() {
    read_arguments "$@"
    stagings=${STAGINGS_DIR:-${HOME:?"neither STAGINGS_DIR nor HOME is set"}/stagings}
    listen_address=${LISTEN_ADDRESS:-127.0.0.1}
    folder=$stagings/$project_name/$namespace/$name
    identity=$project_name/$namespace/$name
}

# One operation at a time per staging. A lock file removed by cleanup while we waited is not the lock.
lock_staging() {
    local lock=$stagings/$project_name/$namespace/.$name.lock
    mkdir -p "${lock%/*}" || fail "$operation: cannot create ${lock%/*}"
    while true; do
        exec {operation_lock}>"$lock"
        flock --wait 30 "$operation_lock" || fail "$operation: another operation on $identity is still at work"
        [[ ! /proc/self/fd/$operation_lock -ef $lock ]] || return 0
        exec {operation_lock}>&-
    done
}

# The staging setting `fail` names operations that shall fail, to show what a failure looks like.
fail_if_asked() {
    local asked
    asked=$(setting fail)
    [[ ,$asked, != *,$operation,* ]] ||
        fail "$operation: failing because the staging override fail=$asked asks for it" \
            "$operation: remove the override and repeat to go on"
}

# Prints the value of a staging setting, the last one given if several are.
setting() {
    local entry value=''
    [[ -e $folder/settings/staging ]] || return 0
    while IFS= read -r -d '' entry; do
        [[ ${entry%%=*} != "$1" ]] || value=${entry#*=}
    done <"$folder/settings/staging"
    printf %s "$value"
}

# Stores what was asked for. A cut leaves the old settings, the new ones or none, never a mixture.
store_settings() {
    local entry
    for entry in "${app_overrides[@]}"; do
        must_match "the key of an app override" "${entry%%=*}" '^[A-Za-z_][A-Za-z0-9_]*$'
    done
    for entry in "${staging_overrides[@]}"; do
        must_match "the key of a staging override" "${entry%%=*}" '^[A-Za-z0-9_][A-Za-z0-9_.-]*$'
        [[ $entry != slow_start_seconds=* ]] || must_match slow_start_seconds "${entry#*=}" '^[0-9]{1,4}$'
    done
    mkdir -p "$folder/data"
    rm -rf "$folder/settings.new" "$folder/settings.old"
    mkdir "$folder/settings.new"
    write_entries "$folder/settings.new/app" "${app_overrides[@]}"
    write_entries "$folder/settings.new/staging" "${staging_overrides[@]}"
    write_entries "$folder/settings.new/facts" "project=$project_name" "namespace=$namespace" "name=$name" \
        "base_domain=$base_domain" "tag=$tag"
    [[ ! -d $folder/settings ]] || mv "$folder/settings" "$folder/settings.old"
    mv "$folder/settings.new" "$folder/settings"
    rm -rf "$folder/settings.old"
}

# NUL ends an entry: no value can contain one.
write_entries() {
    local file=$1
    shift
    if (($#)); then printf '%s\0' "$@" >"$file"; else : >"$file"; fi
}

# Whether a server of this staging runs, on whatever settings.
is_running() { [[ -e $folder/server.pid ]] && ! flock --shared --nonblock "$folder/server.pid" true; }

# Ends the server and all it started, and returns when it is gone.
stop_server() {
    local pid signal
    for signal in TERM KILL; do
        is_running || return 0
        pid=$(server_pid)
        # An empty answer means that it ended on its own between the two looks.
        [[ -z $pid ]] || kill "-$signal" -- "-$pid" 2>/dev/null || true
        if flock --shared --wait 5 "$folder/server.pid" true; then return 0; fi
    done
    fail "$operation: the server of $identity does not end"
}

# Prints the pid of the running server: the process that has this very lock file open.
server_pid() {
    local pid fd
    read -r pid <"$folder/server.pid" || return 0
    [[ $pid =~ ^[0-9]+$ ]] || return 0
    for fd in /proc/"$pid"/fd/*; do
        [[ ! $fd -ef $folder/server.pid ]] || printf %s "$pid"
    done
}

# Starts the server on the stored settings and returns when it answers.
start_server() {
    local limit=${START_LIMIT_SECONDS:-60} slow port='' ready
    slow=$(setting slow_start_seconds)
    [[ ! -s $folder/port ]] || port=$(<"$folder/port")
    say "$operation: starting $identity at tag $tag${slow:+, which takes $slow s to warm up}"
    # The server announces its port on its standard output and then lets go of it, so that this read ends when it is
    # ready or dead, and nothing of ours stays open in a process that outlives us.
    exec {ready}< <(exec env -i PATH="$PATH" setsid "$here/server" "$folder" "$listen_address" "${port:-0}" \
        {operation_lock}>&- </dev/null 2>>"$folder/server.log")
    port=''
    read -r -t "$limit" port <&"$ready" || true
    exec {ready}<&-
    if [[ -z $port ]]; then
        stop_server
        fail "$operation: $identity did not start within $limit s; the last lines of its log:" \
            "$(tail -n 20 "$folder/server.log")"
    fi
    answers || fail "$operation: $identity started but does not answer: $answer"
    say "$operation: $identity answers at tag $tag"
    say "URL: http://$listen_address:$port/"
}

# Whether the server answers, as this staging and with the stored tag. Leaves what it said in `answer`.
answers() {
    local port line wanted connection
    answer='it has no port'
    [[ -s $folder/port && -s $folder/settings/facts ]] || return 1
    port=$(<"$folder/port")
    wanted="$identity $(stored_tag)"
    answer="nothing listens on $listen_address:$port"
    { exec {connection}<>"/dev/tcp/$listen_address/$port"; } 2>/dev/null || return 1
    printf 'GET /healthz HTTP/1.0\r\nHost: %s\r\n\r\n' "$listen_address" >&"$connection"
    answer='it said nothing within 5 s'
    while read -r -t 5 line <&"$connection"; do answer=${line%$'\r'}; done
    exec {connection}<&-
    [[ $answer == "$wanted" ]] || { answer="it says '$answer' where '$wanted' is wanted"; return 1; }
}

stored_tag() {
    local entry
    while IFS= read -r -d '' entry; do
        [[ $entry != tag=* ]] || printf %s "${entry#*=}"
    done <"$folder/settings/facts"
}

# What create and update have in common: the staging runs with exactly these settings, its data untouched.
bring_up() {
    lock_staging
    store_settings
    fail_if_asked
    stop_server
    start_server
}
