"""`keras-efficientnet compare`."""

import click

from keras_efficientnet.cli.common import (
    count,
    import_tensorflow,
    json_option,
    narrow_table,
    print_json,
    print_table,
)
from keras_efficientnet.cli.scale import print_sources


@click.command()
@click.argument("networks", metavar="NETWORK...", nargs=-1, required=True)
@click.option(
    "--measure", is_flag=True, help="Export each as a float LiteRT file and time it; minutes."
)
@click.option("--threads", type=int, default=1, show_default=True, help="Cores to time with.")
@click.option("--repeats", type=int, default=20, show_default=True, help="Turns of the timing.")
@json_option
def compare(networks, measure, threads, repeats, as_json):
    r"""Compare networks: size, multiply-adds, published accuracy, speed.

    NETWORK is a variant such as B3, or ResNet50, ResNet152, MobileNet, MobileNetV2,
    DenseNet169, InceptionV3, Xception, InceptionResNetV2 or NASNetLarge of keras.applications.
    "5 to 10 times fewer FLOPs" is checked for every pair of the two kinds.

    \b
    Examples:
      keras-efficientnet compare B0 B3 ResNet50
      keras-efficientnet compare B0 Lite0 V2-B0 MobileNetV2 ResNet50 --measure
    """
    import_tensorflow()
    from keras_efficientnet.study.baselines import compare_networks, efficiency_claims

    rows = compare_networks(networks, measure=measure, threads=threads, repeats=repeats)
    checked = efficiency_claims(rows)
    if as_json:
        print_json({"networks": rows, "claims": checked})
        return
    shown = narrow_table(
        *("", "px", "params", "paper\nM", "MACs", "paper\nG", "top-1 %"),
        *(("latency\nms", "memory\nMB", "file\nMB") if measure else ()),
    )
    for row in rows:
        memory = row["peak_memory"]
        measured = (
            (
                f"{row['latency_ms']:.1f}",
                f"{memory / 1e6:.0f}" if memory else "-",
                f"{row['file_size'] / 1e6:.1f}",
            )
            if measure
            else ()
        )
        shown.add_row(
            row["network"],
            str(row["image_size"]),
            count(row["trainable"]),
            f"{row['paper_parameters'] / 1e6:g}" if row["paper_parameters"] else "-",
            count(row["multiply_adds"]),
            f"{row['paper_multiply_adds'] / 1e9:g}" if row["paper_multiply_adds"] else "-",
            " / ".join(f"{value:.1f}" for value in row["top1"].values()) or "-",
            *measured,
        )
    print_table(shown)
    print_sources(rows)
    if not checked:
        return
    click.echo('Is it "5 to 10 times fewer FLOPs"? Times fewer, and points of top-1 more:')
    shown = narrow_table("", "MACs", " printed", " params", "  top-1", "")
    for claim in checked:
        printed = claim["paper_fewer_multiply_adds"]
        gain = claim["top1_gain"]
        shown.add_row(
            f"{claim['network']} for {claim['baseline']}",
            *(_times(claim["fewer_multiply_adds"]), _times(printed) if printed else "-"),
            _times(claim["fewer_parameters"]),
            f"{gain:+.1f}" if gain is not None else "-",
            " yes" if claim["holds"] else " no",
        )
    print_table(shown)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"
