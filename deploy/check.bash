# The little test kit of this folder: one line per check, a failed one with what the command said.

set -euo pipefail
workspace=$(mktemp -d)
failures=0
last=''
four=(--project-name shop --base-domain shop.example --namespace previews --name hello)

# ok NAME COMMAND…: the command succeeds. What it said is kept for `printed`.
ok() {
    local what=$1 said code=0
    shift
    said=$("$@" 2>&1) || code=$?
    [[ $1 == printed ]] || last=$said
    if ((code == 0)); then
        printf 'ok    %s\n' "$what"
    else
        printf 'FAIL  %s (exit %s)\n' "$what" "$code"
        printf '      %s\n' "${said//$'\n'/$'\n'      }"
        failures=$((failures + 1))
    fi
}

# The command of the last check said TEXT.
printed() { [[ $last == *"$1"* ]] || { printf 'no "%s" in:\n%s\n' "$1" "$last"; return 1; }; }

# refused NAME REASON COMMAND…: the command fails and says REASON on stderr.
refused() {
    local what=$1 reason=$2
    shift 2
    ok "$what" fails_saying "$reason" "$@"
}

fails_saying() {
    local reason=$1 said
    shift
    if said=$("$@" 2>&1 >/dev/null); then
        echo "it succeeded"
        return 1
    fi
    printf '%s\n' "$said"
    [[ $said == *"$reason"* ]]
}

contains() { grep -Fq -- "$2" "$1" || { printf 'no "%s" in:\n' "$2"; cat "$1"; return 1; }; }
lacks() { ! contains "$@" >/dev/null; }
same() { [[ $1 == "$2" ]] || { printf 'is:     %s\nwanted: %s\n' "$1" "$2"; return 1; }; }

# What every set must refuse, whatever it does otherwise.
contract_is_kept() {
    local set=$1 operation
    for operation in create update delete check cleanup archive_check; do
        local tag=()
        [[ $operation != create && $operation != update ]] || tag=(--tag v1)
        refused "$operation refuses an unknown flag" "unknown flag --colour" "$set/$operation" "${four[@]}" "${tag[@]}" --colour red
        refused "$operation refuses a missing name" "--name is missing" "$set/$operation" "${four[@]:0:6}" "${tag[@]}"
        refused "$operation refuses a flag without value" "--name has no value" "$set/$operation" "${four[@]:0:6}" "${tag[@]}" --name
        refused "$operation refuses a name that is a path" "--name '../x'" "$set/$operation" "${four[@]:0:6}" "${tag[@]}" --name ../x
        refused "$operation refuses a doubled flag" "--name is given twice" "$set/$operation" "${four[@]}" "${tag[@]}" --name other
    done
    refused "check refuses a tag, which the contract does not give it" "unknown flag --tag" "$set/check" "${four[@]}" --tag v1
    refused "create refuses an override without =" "must be KEY=VALUE" "$set/create" "${four[@]}" --tag v1 --staging-override lonely
    refused "create refuses a malformed tag" "--tag 'a b'" "$set/create" "${four[@]}" --tag 'a b'
}

# Ends the test: non-zero when a check failed.
finish() {
    rm -rf "$workspace"
    if ((failures)); then printf '%s failed\n' "$failures"; exit 1; fi
}
