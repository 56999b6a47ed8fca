# The codes of libscissor(3), in mdoc(7), from the table in scissor_error.h.
BEGIN { print ".Bl -tag -width Ds" }
/^    X\([A-Z_]+, -?[0-9]+, ".*"\)/ {
    name = $0; sub(/^    X\(/, "", name); sub(/,.*/, "", name)
    number = $0; sub(/^[^,]*, /, "", number); sub(/,.*/, "", number)
    text = $0; sub(/^[^"]*"/, "", text); sub(/".*/, "", text)
    print ".It Bq Er SCISSOR_" name " (" number ")"
    print text "."
}
END { print ".El" }
