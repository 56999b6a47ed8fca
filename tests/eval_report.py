"""The figures of scissor-eval --json as a Markdown table and as a gnuplot script: KL against bytes, a line a method.

    eval_report.py FIGURES.json TABLE.md PLOT.gnuplot
"""
import json
import sys

FIXED = {"all": "every row"}


def method(config):
    """What configurations that differ in their budget alone have in common; `drop` goes with the budget."""
    params = "".join(f", {name} {value:g}" for name, value in config["params"].items() if name != "drop")
    return f"{config['policy']} {config['cache']}{params}"


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
    for terminal, name in (("svg size 900,500 dynamic background 'white'", "eval.svg"),
                           ("pngcairo size 900,500", "eval.png")):
        yield f"set terminal {terminal}"
        yield f"set output '{name}'"
        yield f"plot {drawn}"


def main():
    source, *targets = sys.argv[1:]
    with open(source, encoding="utf-8") as stream:
        figures = json.load(stream)
    for target, lines in zip(targets, (table(figures), plot(figures))):
        with open(target, "w", encoding="utf-8") as stream:
            stream.writelines(line + "\n" for line in lines)


main()
