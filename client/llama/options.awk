# The option section of scissor-run(1) and scissor-eval(1), in mdoc(7), from what their --help prints.
function end_list() {
    if (in_list)
        print ".El"
    in_list = 0
}
/^[A-Z][^:]*:$/ {
    end_list()
    sub(/:$/, "")
    print ".Ss " $0
    print ".Bl -tag -width Ds"
    in_list = 1
}
/^  -/ {
    name = $1
    argument = $2 ~ /^[A-Z][A-Z=]*$/ ? " Ar " $2 : ""
    sub(/^ +[^ ]+ +/, "")
    if (argument != "")
        sub(/^[^ ]+ +/, "")
    sub(/^--/, "\\-", name) || sub(/^-/, "", name)
    print ".It Fl " name argument
    print $0 "."
}
END { end_list() }
