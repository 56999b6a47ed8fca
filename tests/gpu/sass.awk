# Of a kernel's machine code, as nvdisasm prints it: one line for each kernel with the number of its loads from global
# memory, how many of them have 128 bits, and of its *streaming loops* the number and how many have narrower loads. A
# loop ends with a branch back and has no other in it. Streaming are those with at least half as many products (FFMA,
# HMMA) as the one with the most: K's and V's, unrolled, but not those over the few rows that some vectors do not see.
function inside(i, j) {
    return j != i && first[j] >= first[i] && last[j] <= last[i] && last[j] - first[j] < last[i] - first[i]
}
function kernel_end(   i, j, most, streaming, narrow) {
    for (i = 1; i <= loops; i++) {
        for (j = 1; j <= loops; j++)
            if (inside(i, j)) products[i] = -1
        for (j = first[i]; j <= last[i] && products[i] >= 0; j++) {
            products[i] += op[j] ~ /^(FFMA|HMMA)/
            loads_in[i] += op[j] ~ /^LDG/
            wide_in[i] += op[j] ~ /^LDG.*\.128/
        }
        if (loads_in[i] && products[i] > most) most = products[i]
    }
    for (i = 1; i <= loops && most; i++)
        if (loads_in[i] && products[i] * 2 >= most) {
            streaming++
            narrow += wide_in[i] < loads_in[i]
        }
    if (kernel) print kernel, loads + 0, wide + 0, streaming + 0, narrow + 0
    loops = loads = wide = 0
    delete label; delete products; delete loads_in; delete wide_in
}
/^\.text\./ { kernel_end(); kernel = substr($1, 7); sub(/:$/, "", kernel) }
/^\.L_x_[0-9]+:/ { name = $1; sub(/:$/, "", name); label[name] = NR }
/^[ \t]+\/\*[0-9a-f]+\*\// {
    op[NR] = $2 ~ /^@/ ? $3 : $2
    loads += op[NR] ~ /^LDG/
    wide += op[NR] ~ /^LDG.*\.128/
    if (op[NR] == "BRA" && match($0, /\.L_x_[0-9]+/)) {
        name = substr($0, RSTART, RLENGTH)
        if (name in label) { first[++loops] = label[name]; last[loops] = NR }
    }
}
END { kernel_end() }
