# Completion of scissorctl in bash: commands, options and the numbers of the sessions that are open now. What commands
# and options there are is asked of scissorctl itself.

_scissorctl() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local tool=${COMP_WORDS[0]} command= directory=() i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --dir)
            # bash takes "--dir=x" for three words
            [ "${COMP_WORDS[i + 1]}" != = ] || ((i++))
            directory=(--dir "${COMP_WORDS[++i]}")
            ;;
        --count)
            ((i++))
            ;;
        -*) ;;
        *)
            [ -n "$command" ] || command=${COMP_WORDS[i]}
            ;;
        esac
    done
    if [[ $previous == --dir || $previous == = ]]; then
        mapfile -t COMPREPLY < <(compgen -d -- "${word#=}")
        return
    fi
    [ "$previous" = --count ] && return
    if [[ $word == -* ]]; then
        # The options of the command, or the common ones.
        mapfile -t COMPREPLY < <(compgen -W \
            "$("$tool" help ${command:+"$command"} 2>/dev/null | sed -n 's/^  \(--[a-z]*\).*/\1/p')" -- "$word")
        return
    fi
    case $command in
    '' | help)
        mapfile -t COMPREPLY < <(compgen -W \
            "$("$tool" help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')" -- "$word")
        ;;
    session | close)
        mapfile -t COMPREPLY < <(compgen -W \
            "$("$tool" --json "${directory[@]}" sessions 2>/dev/null |
                sed 's/"session": *\([0-9]*\)/\n@\1\n/g' | sed -n 's/^@//p')" -- "$word")
        ;;
    esac
}
complete -F _scissorctl scissorctl
