"""Figures in JSON as a Markdown table and as a gnuplot script: those of scissor-eval (KL against bytes, a line a method),
of scissor-eval --task passkey (a table alone) and of scissor-replay --persistence (by layer).

    eval_report.py FIGURES.json TABLE.md [PLOT.gnuplot]
"""
import json
import sys

FIXED = {"all": "every row"}


def method(config):
    """What configurations that differ in their budget alone have in common; `drop` goes with the budget."""
    params = "".join(f", {name} {value:g}" for name, value in config["params"].items() if name != "drop")
    fresh = "" if config["fresh"] == 64 else f", {config['fresh']} fresh"
    return f"{config['policy']} {config['cache']}{params}{fresh}"


def share(config):
    return config["mean"]["bytes_peak"] / config["mean"]["bytes_full"]


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def with_interval(config, key, digits):
    interval = (config["interval"] or {}).get(key)
    text = number(config["mean"][key], digits)
    return text if not interval else f"{text} ({number(interval[0], digits)} to {number(interval[1], digits)})"


def table(figures):
    texts = [text["text"] for text in figures["configurations"][0]["texts"]]
    full = figures["configurations"][0]["mean"]
    yield (f"{figures['model']}, {figures['tokens']:,} tokens of {', '.join(texts)}; predictions after token "
           f"{figures['score_from']:,} and later. The full cache has a mean negative log likelihood of "
           f"{number(full['nll_full'], 4)} and takes {full['bytes_full'] / 2**20:.1f} MiB in f16. In brackets: 95 % "
           "bootstrap intervals over the texts.\n")
    yield "| method | budget | rows | peak MiB | smaller | perplexity | KL | top-1 |"
    yield "|---|---|---|---|---|---|---|---|"
    for config in figures["configurations"]:
        mean = config["mean"]
        yield (f"| {method(config)} | {FIXED.get(config['budget'], config['budget'])} | {mean['rows']:,.0f} | "
               f"{mean['bytes_peak'] / 2**20:.1f} | {1 / share(config):.2f}x | {with_interval(config, 'ppl_ratio', 4)} | "
               f"{with_interval(config, 'kl', 4)} | {number(mean['top1'], 4)} |")


def plot(figures):
    lines = {}
    for config in figures["configurations"]:
        if (config["mean"]["kl"] or 0) > 0:
            lines.setdefault(method(config), []).append((100 * share(config), config["mean"]["kl"]))
    for i, points in enumerate(lines.values()):
        yield f"$line{i} << EOD"
        yield from (f"{x:.4f} {y:.6f}" for x, y in sorted(points))
        yield "EOD"
    yield "set logscale xy"
    yield "set xrange [*<4:50<*]"
    yield "set xlabel 'bytes, % of a full f16 cache'"
    yield "set ylabel 'KL divergence a token, nats'"
    yield "set xtics (2, 5, 10, 20, 30, 50, 100)"
    yield "set grid"
    yield "set key outside right top"
    drawn = ", ".join(f"$line{i} using 1:2 with linespoints linewidth 2 title '{name}'" for i, name in enumerate(lines))
    yield from both_pictures("eval", drawn)


def both_pictures(name, drawn):
    for terminal, kind in (("svg size 900,500 dynamic background 'white'", "svg"), ("pngcairo size 900,500", "png")):
        yield f"set terminal {terminal}"
        yield f"set output '{name}.{kind}'"
        yield f"plot {drawn}"


def passkey_table(figures):
    configs = figures["configurations"]
    depths = configs[0]["depths"]
    yield (f"{figures['model']}: five-digit numbers in {figures['texts']} texts of {figures['tokens']:,} tokens each, by "
           f"depth, that the full cache knows at the end, and those of them that a session knows.\n")
    yield "| method | budget | in all | " + " | ".join(f"{100 * depth['depth']:.0f} %" for depth in depths) + " |"
    yield "|---|---|---|" + "---|" * len(depths)
    yield f"| full cache | | {configs[0]['full']} | " + " | ".join(str(depth["full"]) for depth in depths) + " |"
    for config in configs:
        yield (f"| {method(config)} | {FIXED.get(config['budget'], config['budget'])} | {config['solved']} | " +
               " | ".join(str(depth["solved"]) for depth in config["depths"]) + " |")


def persistence_table(figures):
    yield (f"Of the first {figures['half']:,} of {figures['tokens']:,} rows those with a mean probability above 1/"
           f"{figures['half']:,}, over all KV heads of a layer: which part of those that have it under later query rows "
           "had it under earlier ones, too, and which part of all rows the earlier and the later ones are.\n")
    yield "| layer | persistence | earlier ones | later ones |"
    yield "|---|---|---|---|"
    for layer in figures["layers"] + [{**figures, "layer": "all"}]:
        yield (f"| {layer['layer']} | {number(layer['ratio'], 4)} | {number(layer['share_early'], 4)} | "
               f"{number(layer['share_late'], 4)} |")


def persistence_plot(figures):
    yield "$layers << EOD"
    for layer in figures["layers"]:
        if layer["ratio"] is not None:
            yield f"{layer['layer']} {layer['ratio']} {layer['share_early']} {layer['share_late']}"
    yield "EOD"
    yield "set xrange [-0.5:*]"
    yield "set yrange [0:1]"
    yield "set xlabel 'layer'"
    yield "set grid"
    yield "set key outside below"
    yield from both_pictures(
        "persistence", "$layers using 1:2 with linespoints linewidth 2 title 'later ones that were so earlier', "
        "'' using 1:3 with linespoints linewidth 2 title 'earlier ones among all rows', "
        "'' using 1:4 with linespoints linewidth 2 title 'later ones among all rows'")


def reports(figures):
    if figures.get("task") == "passkey":
        return passkey_table(figures),
    if "half" in figures:
        return persistence_table(figures), persistence_plot(figures)
    return table(figures), plot(figures)


def main():
    source, *targets = sys.argv[1:]
    with open(source, encoding="utf-8") as stream:
        figures = json.load(stream)
    for target, lines in zip(targets, reports(figures)):
        with open(target, "w", encoding="utf-8") as stream:
            stream.writelines(line + "\n" for line in lines)


main()
