# The v0.12 argv contract of staging wrappers, shared by the example sets.
#
# Long flags, each with its value as the next argument, in any order. Every wrapper gets the four names; create, update
# and tag_check also --tag; create and update also any number of overrides. Exit 0 is success, anything else failure.
# What does not belong to the contract is refused by name: a flag that is silently ignored is a setting that is lost.

# Ends the wrapper with a reason on stderr: these lines are what a person sees of a failed operation.
fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Tells progress on stdout.
say() { printf '%s\n' "$*"; }

# Reads "$@" for the operation named by the first argument. Sets project_name, base_domain, namespace, name, tag,
# app_overrides and staging_overrides (arrays of KEY=VALUE, in the order given).
# shellcheck disable=SC2034 # The variables set here are this file's result: its callers read them.
read_arguments() {
    operation=$1
    shift
    project_name='' base_domain='' namespace='' name='' tag=''
    app_overrides=() staging_overrides=()
    local wants_tag='' wants_overrides='' flag
    case $operation in
        create | update) wants_tag=yes wants_overrides=yes ;;
        tag_check) wants_tag=yes ;;
    esac
    while (($#)); do
        flag=$1
        (($# > 1)) || fail "$operation: $flag has no value"
        case $flag in
            --project-name) set_once project_name "$2" ;;
            --base-domain) set_once base_domain "$2" ;;
            --namespace) set_once namespace "$2" ;;
            --name) set_once name "$2" ;;
            --tag)
                [[ $wants_tag ]] || fail "$operation: unknown flag --tag"
                set_once tag "$2"
                ;;
            --app-env-override | --staging-override)
                [[ $wants_overrides ]] || fail "$operation: unknown flag $flag"
                [[ $2 == ?*=* ]] || fail "$operation: the value of $flag must be KEY=VALUE"
                if [[ $flag == --app-env-override ]]; then app_overrides+=("$2"); else staging_overrides+=("$2"); fi
                ;;
            *) fail "$operation: unknown flag $flag" ;;
        esac
        shift 2
    done
    local label='^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'
    must_match --project-name "$project_name" "$label"
    must_match --namespace "$namespace" "$label"
    must_match --name "$name" "$label"
    must_match --base-domain "$base_domain" '^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$'
    if [[ $wants_tag ]]; then must_match --tag "$tag" '^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$'; fi
}

set_once() {
    [[ -z ${!1} ]] || fail "$operation: --${1//_/-} is given twice"
    printf -v "$1" %s "$2"
}

# Names become paths and arguments, so nothing but the expected alphabet gets through.
must_match() {
    [[ -n $2 ]] || fail "$operation: $1 is missing"
    local LC_ALL=C
    [[ $2 =~ $3 ]] || fail "$operation: $1 '$2' is not of the form $3"
}

# Prints a text as a JSON string, quotes included.
json_string() {
    local text=$1 escaped='' char code i LC_ALL=C
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    if [[ $text =~ [[:cntrl:]] ]]; then
        for ((i = 0; i < ${#text}; i++)); do
            char=${text:i:1}
            if [[ $char == [[:cntrl:]] ]]; then
                printf -v code '%d' "'$char"
                printf -v char '\\u%04x' "$code"
            fi
            escaped+=$char
        done
        text=$escaped
    fi
    printf '"%s"' "$text"
}
