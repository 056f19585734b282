"""`keras-efficientnet compare`."""

import click

from keras_efficientnet.cli.common import import_tensorflow, json_option, print_json
from keras_efficientnet.cli.rows import print_rows, print_sources


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
    from keras_efficientnet.study import compare_networks, efficiency_claims

    rows = compare_networks(networks, measure=measure, threads=threads, repeats=repeats)
    claims = efficiency_claims(rows)
    if as_json:
        print_json({"networks": rows, "claims": claims})
        return
    fields = ("network", "image_size", "trainable", "paper_parameters", "multiply_adds")
    fields += ("paper_multiply_adds", "top1", "latency_ms", "peak_memory", "file_size")
    print_rows(rows, *fields)
    print_sources(rows)
    if claims:
        click.echo('Is it "5 to 10 times fewer FLOPs"? Times fewer, and points of top-1 more:')
        fields = ("network", "baseline", "fewer_multiply_adds", "paper_fewer_multiply_adds")
        print_rows(claims, *fields, "fewer_parameters", "top1_gain", "holds")
