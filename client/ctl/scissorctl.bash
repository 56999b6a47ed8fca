# Completion of scissorctl in bash: commands, options, the numbers of the sessions that are open now, policies, options
# of the daemon. scissorctl itself is asked what there is; a daemon that does not answer at once is not waited for.

# The first words of the list that `help` [COMMAND] prints, by a sed pattern.
_scissorctl_help() {
    "$tool" help ${2:+"$2"} 2>/dev/null | sed -n "s/^  \\($1\\) .*/\\1/p"
}

# The values of a key that stand on a line of their own in the JSON of a command.
_scissorctl_ask() {
    timeout 1 "$tool" --json "${directory[@]}" "$1" 2>/dev/null | sed -nE "s/^ {6}\"$2\": *\"?([^\",]*)\"?,?\$/\\1/p"
}

_scissorctl_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$word")
}

# After `limits`: set pool SIZE | set session ID NAME=N...
_scissorctl_limits() {
    case "${#words[@]}:${words[1]-}" in
    0:) _scissorctl_words set ;;
    1:) _scissorctl_words "pool session" ;;
    2:session) _scissorctl_words "$(_scissorctl_ask sessions session)" ;;
    *:session)
        [ "$previous" = = ] || [ "$word" = = ] || _scissorctl_words "guaranteed-rows= max-rows= group= priority="
        compopt -o nospace 2>/dev/null
        ;;
    esac
}

_scissorctl() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local tool=${COMP_WORDS[0]} command= option= directory=() words=() i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --dir | --count | --sort | --layer | --head | --listen | --settles)
            option=${COMP_WORDS[i]}
            # bash takes "--dir=x" for three words
            [ "${COMP_WORDS[i + 1]}" != = ] || ((i++))
            ((++i))
            if ((i >= COMP_CWORD)); then
                previous=$option
                break
            fi
            [ "$option" != --dir ] || directory=(--dir "${COMP_WORDS[i]}")
            ;;
        -*) ;;
        *)
            if [ -n "$command" ]; then words+=("${COMP_WORDS[i]}"); else command=${COMP_WORDS[i]}; fi
            ;;
        esac
    done
    case $previous in
    --dir)
        mapfile -t COMPREPLY < <(compgen -d -- "${word#=}")
        return
        ;;
    --sort)
        word=${word#=}
        _scissorctl_words "$("$tool" help sessions 2>/dev/null | sed -n '/^  --sort /{s/.*order by//;s/,//g;s/ or / /;p}')"
        return
        ;;
    --listen)
        word=${word#=}
        if [[ $word == */* ]]; then mapfile -t COMPREPLY < <(compgen -f -- "$word"); else _scissorctl_words systemd; fi
        return
        ;;
    --count | --layer | --head | --settles) return ;;
    esac
    if [[ $word == -* ]]; then
        # The options of the command, or the common ones.
        _scissorctl_words "$(_scissorctl_help '--[a-z]*' "$command")"
        return
    fi
    case $command:${#words[@]} in
    :0 | help:0) _scissorctl_words "$(_scissorctl_help '[a-z][a-z]*')" ;;
    session:0 | close:0 | positions:0 | record:0) _scissorctl_words "$(_scissorctl_ask sessions session)" ;;
    record:1) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    policies:0) _scissorctl_words "$(_scissorctl_ask policies name)" ;;
    config:0) _scissorctl_words "$(_scissorctl_ask config name)" ;;
    limits:*) _scissorctl_limits ;;
    esac
}
complete -F _scissorctl scissorctl
