"""`keras-efficientnet info`."""

import dataclasses
from typing import Any

import click

from keras_efficientnet.cli.common import json_option, print_json, print_table, table


@click.command()
@click.argument("variant")
@click.option(
    "--image-size", type=int, help="Side of the input in pixels. [default: the variant's]"
)
@click.option(
    "--classes", type=int, default=1000, show_default=True, help="Outputs of the classifier."
)
@json_option
def info(variant, image_size, classes, as_json):
    """Show the blocks, parameters and multiply-adds of VARIANT, such as B0."""
    from keras_efficientnet import cost, scaling

    spec = scaling.get_variant(variant)
    total = cost.network_cost(spec, image_size=image_size, classes=classes)
    blocks = {block.name: block for block in scaling.expand_blocks(spec)}
    if as_json:
        print_json(_info_document(spec, total, blocks))
        return
    rows = table("part", "block", "kernel", "stride", "SE", "output", "params", "M MACs")
    for part in total.parts:
        block = blocks.get(part.name)
        described = (
            (block.kind, str(block.kernel_size), str(block.stride), str(block.se_filters or "-"))
            if block
            else ("", "", "", "")
        )
        shape = "x".join(str(size) for size in part.output_shape)
        rows.add_row(
            part.name,
            *described,
            shape,
            f"{part.parameters:,}",
            f"{part.multiply_adds / 1e6:,.1f}",
        )
    print_table(rows)
    click.echo(
        f"EfficientNet-{spec.name} at {total.image_size} px: "
        f"{total.trainable:,} trainable of {total.parameters:,} parameters, "
        f"{total.multiply_adds / 1e9:.3f} G multiply-adds "
        f"(MACs), width x{spec.width:g}, depth x{spec.depth:g}, dropout {spec.dropout_rate:g}."
    )


def _info_document(spec, total, blocks) -> dict[str, Any]:
    return {
        "variant": spec.name,
        "image_size": total.image_size,
        "width": spec.width,
        "depth": spec.depth,
        "dropout_rate": spec.dropout_rate,
        "trainable": total.trainable,
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "activations": total.activations,
        "parts": [
            {
                **dataclasses.asdict(part),
                **({"block": dataclasses.asdict(blocks[part.name])} if part.name in blocks else {}),
            }
            for part in total.parts
        ],
    }
