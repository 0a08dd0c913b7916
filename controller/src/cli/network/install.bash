#!/bin/bash
# Makes this host @WHAT@.
#
# Paste it on the host as root, or run it: bash FILE [--package DEB | --binary FILE] [--prefix DIR]
#
#   --package DEB   install Muster's agent from this package (deploy/packages/build makes it)
#   --binary FILE   install Muster's agent from this program, muster-agent of a release build
#   --prefix DIR    lay everything under DIR, start nothing and need no root: for a look, or for an image
#
# Without the first two it takes the agent that is installed here. It holds this host's invitation: keep it as you would
# a key, and throw it away when the host has joined.
#
# What the agent does by itself from then on: it joins by the invitation, makes its keys, writes its router's start-up
# file and starts the router, all in /var/lib/muster-agent. Running this script again changes nothing but the invitation.
muster_site() (
    set -euo pipefail
    umask 022
    prefix='' package='' binary=''
    while (($#)); do
        case $1,${2-} in
            --package,?*) package=$2 ;;
            --binary,?*) binary=$2 ;;
            --prefix,?*) prefix=${2%/} ;;
            *) echo 'Usage: [--package DEB | --binary FILE] [--prefix DIR]' >&2; exit 2 ;;
        esac
        shift 2
    done

    # === is it possible? Nothing is changed before that is known ===

    fail() { printf 'cannot make this host @WHAT@: %s\n' "$1" >&2; exit 1; }

    agent=$prefix/usr/bin/muster-agent
    if [[ $package && ! -r $package ]]; then fail "$package is not there"; fi
    if [[ $binary && ! -r $binary ]]; then fail "$binary is not there"; fi
    if [[ $package ]] && ! type dpkg >/dev/null 2>&1; then fail 'it has no dpkg; give --binary in place of --package'; fi
    if [[ -z $package && -z $binary && ! -x $agent ]]; then
        fail "there is no $agent. Bring the package muster-agent @VERSION@, which deploy/packages/build makes, or the program \
muster-agent of a release build to this host, and name it with --package or --binary; pasted, say: muster_site --package FILE"
    fi
    if [[ -z $prefix ]]; then
        if ((EUID != 0)); then fail 'this takes root; --prefix DIR lays it under a folder for a look'; fi
        if ! type systemctl >/dev/null 2>&1; then fail 'it has no systemd, which looks after the agent'; fi
    fi
    if [[ -e $prefix/var/lib/muster-agent/identity/agent.json ]]; then
        fail "its agent has joined already, see muster-agent status. To join anew: stop it, move \
$prefix/var/lib/muster-agent away, and repeat this."
    fi

    # === the agent ===

    # lay MODE FILE: writes what comes on standard input, whole or not at all.
    lay() {
        local file=$prefix$2
        install -d "${file%/*}"
        (umask 077 && cat >"$file.new")
        chmod "$1" "$file.new"
        mv "$file.new" "$file"
        printf '  %s\n' "$file"
    }
    # once MODE FILE: the same, but what is there is its owner's and stays.
    once() {
        if [[ -e $prefix$2 ]]; then
            printf '  %s (kept as it is)\n' "$prefix$2"
        else
            lay "$@"
        fi
    }

    printf 'Making this host @WHAT@:\n'
    if [[ $package && $prefix ]]; then
        install -d "$prefix"
        dpkg-deb --extract "$package" "$prefix"
    elif [[ $package ]]; then
        dpkg --install "$package" >/dev/null
    elif [[ $binary ]]; then
        install -D --mode=0755 "$binary" "$agent"
    fi
    printf '  %s\n' "$agent"

    # === unit and class: a package brings the first two ===

    if [[ ! -e $prefix/usr/lib/systemd/system/muster-agent.service ]]; then
        lay 0644 /etc/systemd/system/muster-agent.service <<'MUSTER_END'
@UNIT@
MUSTER_END
    fi
    if [[ ! -e $prefix/usr/lib/sysusers.d/muster-agent.conf ]]; then
        lay 0644 /etc/sysusers.d/muster-agent.conf <<'MUSTER_END'
@USER@
MUSTER_END
    fi
    lay 0644 /etc/systemd/system/muster-agent.service.d/class.conf <<'MUSTER_END'
@CONF@
MUSTER_END

    # === settings: the host's owner has the last word ===

    once 0644 /etc/muster-agent/agent.d/network.toml <<'MUSTER_END'
# A site of a network: what else home asks for is refused. See deploy/examples/agent.toml for every setting.
[accept]
kinds = ["fleet.*", "network.*"]

# The router program, if it is not the skrouterd on PATH. A site whose processes are executables or containers also
# names the folders they may come from (processes), or what runs them (containers).
@ROUTER@
MUSTER_END

    # === invitation ===

    lay 0600 /etc/muster-agent/invitation <<'MUSTER_END'
@TOKEN@
MUSTER_END

    # === folders and start ===

    if [[ $prefix ]]; then
        install -d --mode=0700 "$prefix/var/lib/muster-agent"
        printf '  %s\n' "$prefix/var/lib/muster-agent"
        printf 'All laid under %s; nothing was started.\n' "$prefix"
        exit 0
    fi
    systemd-sysusers muster-agent.conf
    install -d --mode=0700 --owner=muster-agent --group=muster-agent /var/lib/muster-agent
    printf '  %s\n' /var/lib/muster-agent
    if ! type skrouterd >/dev/null 2>&1 && ! grep -q '^router = ' /etc/muster-agent/agent.d/network.toml; then
        printf 'There is no skrouterd on PATH: until there is one (skupper-router 3.5), or network.toml names it, the agent\n'
        printf 'writes its configuration and no more.\n'
    fi
    systemctl daemon-reload
    systemctl enable --quiet muster-agent
    if systemctl restart muster-agent; then
        printf 'The agent runs. What it does: journalctl --unit muster-agent --follow\n'
    else
        printf 'The agent does not run; why: journalctl --unit muster-agent, and runuser -u muster-agent -- muster-agent doctor\n' >&2
        exit 1
    fi
)
muster_site "$@"
