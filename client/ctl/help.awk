# Turns what `scissorctl help COMMAND` prints for each command into two lists in mdoc(7): the commands with what there
# is to say about them (part=commands) and the options, each once (part=options).

# Roff must take nothing for its own: a hyphen is a minus, a name in backquotes is bold.
function plain(text) {
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    while (match(text, /`[^`]*`/))
        text = substr(text, 1, RSTART - 1) "\\fB" substr(text, RSTART + 1, RLENGTH - 2) "\\fR" substr(text, RSTART + RLENGTH)
    return text
}
# A line of the page for each sentence; a line must not start as a request does.
function say(text) {
    text = plain(text)
    while (match(text, /[.:] [A-Z]/)) {
        line(substr(text, 1, RSTART))
        text = substr(text, RSTART + 2)
    }
    line(text)
}
function line(text) {
    if (text ~ /^[.']/)
        text = "\\&" text
    if (text != "" && part == "commands")
        print text
}
function first_letter(text) {
    return toupper(substr(text, 1, 1)) substr(text, 2)
}
# "ID", "[NAME]", "[set WHAT ...]"
function argument(text) {
    if (text == "")
        return ""
    if (text ~ /^\[.*\]$/)
        return " Op Ar " plain(substr(text, 2, length(text) - 2))
    return " Ar " plain(text)
}
function flush_text() {
    if (paragraph != "")
        say(paragraph)
    paragraph = ""
}
function flush_own() {
    if (own != "" && part == "commands")
        print "Options of its own: " own "."
    own = ""
}
function flush_literal() {
    if (literal && part == "commands")
        print ".Ed"
    literal = 0
}

/^usage: / {
    flush_text()
    flush_literal()
    flush_own()
    command = $4
    words = $0
    sub(/^usage: scissorctl \[OPTIONS\] [a-z]+ ?/, "", words)
    if (part == "commands")
        print ".It Cm " command argument(words)
    brief = 1
    next
}
/^  --/ {
    flush_text()
    flush_literal()
    head = $1
    value = ""
    rest = $0
    sub(/^  --[a-z]+ ?/, "", rest)
    if (rest !~ /^ /) {
        value = $2
        sub(/^[^ ]+/, "", rest)
    }
    sub(/^ +/, "", rest)
    if (head !~ /^--(dir|json|help|version)$/)
        own = own (own == "" ? "" : ", ") plain(head) (value == "" ? "" : " " value)
    if (part == "options" && !(head in seen)) {
        seen[head] = 1
        sub(/^--/, "\\-", head)
        print ".It Fl " head (value == "" ? "" : " Ar " value)
        print plain(first_letter(rest)) "."
    }
    next
}
/^  / {
    flush_text()
    if (!literal && part == "commands")
        print ".Bd -literal -compact"
    literal = 1
    if (part == "commands")
        print plain($0)
    next
}
/^$/ { next }
{
    flush_literal()
    if (brief) {
        say(first_letter($0) ".")
        brief = 0
    } else {
        paragraph = paragraph (paragraph == "" ? "" : " ") $0
    }
}
END {
    flush_text()
    flush_literal()
    flush_own()
}
