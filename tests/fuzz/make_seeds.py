"""Makes the seeds of the fuzzer: small good and odd examples for every target.

python tests/fuzz/make_seeds.py
"""

import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image
from safetensors.numpy import save

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import targets

HERE = Path(__file__).parent / "seeds"


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """The content of an image file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def image_files() -> dict[str, bytes]:
    """Every format and mode that people have, as small as can be."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    rgb = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.fromarray(np.roll(noise, shift, 0)) for shift in (1, 2)]
    jpeg = saved(rgb, "JPEG", quality=30)
    return {
        "jpeg": jpeg,
        "cut": jpeg[: len(jpeg) // 2],
        "progressive": saved(rgb, "JPEG", progressive=True, quality=30),
        "turned": saved(rgb, "JPEG", exif=exif, quality=30),
        "cmyk": saved(rgb.convert("CMYK"), "JPEG", quality=30),
        "grey": saved(rgb.convert("L"), "JPEG", quality=30),
        "png": saved(rgb, "PNG"),
        "alpha": saved(rgb.convert("RGBA"), "PNG", exif=exif),
        "palette": saved(rgb.convert("P"), "PNG", transparency=3),
        "wide": saved(Image.fromarray(noise[..., 0].astype(np.uint16) * 200), "PNG"),
        "one": saved(rgb.resize((1, 1)), "PNG"),
        "long": saved(rgb.resize((30_000, 1)).convert("1"), "PNG"),
        "moves": saved(rgb.convert("P"), "GIF", save_all=True, append_images=frames),
        "webp": saved(rgb, "WEBP"),
        "bmp": saved(rgb.convert("1"), "BMP"),
        "tiff": saved(rgb, "TIFF", compression="tiff_lzw"),
        "float": saved(Image.fromarray(noise[..., 0].astype(np.float32)), "TIFF"),
    }


def weight_files() -> dict[str, bytes]:
    """Every layout that one file can have, with a stem or less in it."""
    kernel = np.zeros((3, 3, 3, 8), np.float32)
    torch_kernel = kernel.transpose(3, 2, 0, 1).copy()
    arrays = {"_conv_stem.weight": torch_kernel, "_bn0.weight": np.ones(8, np.float32)}
    npz = io.BytesIO()
    np.savez_compressed(npz, **arrays)
    with h5py.File(legacy := io.BytesIO(), "w") as file:
        file.attrs["layer_names"] = [b"stem_conv"]
        file["stem_conv/stem_conv/kernel:0"] = kernel
    with h5py.File(numbered := io.BytesIO(), "w") as file:
        group = file.create_group("layers/conv2d/vars")
        group.attrs["name"] = "stem_conv"
        group["0"] = kernel
    with zipfile.ZipFile(keras := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        layer = {"class_name": "Conv2D", "config": {"name": "stem_conv"}}
        archive.writestr("config.json", json.dumps({"config": {"layers": [layer]}}))
        archive.writestr("model.weights.h5", numbered.getvalue())
    with zipfile.ZipFile(torch := io.BytesIO(), "w") as archive:
        archive.writestr("archive/data.pkl", torch_pickle())
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", torch_kernel.tobytes())
    with zipfile.ZipFile(program := io.BytesIO(), "w") as archive:
        content = {"a": Path("."), "b": np.float64(1), "c": {1, 2}, "d": np.ones(2)}
        archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
    head = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    count = torch_kernel.size.to_bytes(8, "little")
    old_torch = head + torch_pickle() + b"\x80\x02]X\x01\0\0\x000a." + count
    return {
        "torch": torch.getvalue(),
        "torch_legacy": old_torch + torch_kernel.tobytes(),
        "torch_program": program.getvalue(),
        "safetensors": save(arrays),
        "npz": npz.getvalue(),
        "legacy": legacy.getvalue(),
        "numbered": numbered.getvalue(),
        "keras": keras.getvalue(),
        "pickle": b"\x80\x04}\x94.",
    }


def torch_pickle() -> bytes:
    """What PyTorch writes of `{"_conv_stem.weight": tensor}`, with a float32 storage called 0."""

    def text(value: str) -> bytes:
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\xd8tQ"
    )
    sizes = b"(K\x08K\x03K\x03K\x03t(K\x1bK\x09K\x03K\x01t"
    hooks = b"ccollections\nOrderedDict\n)R"
    view = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + sizes + b"\x89" + hooks
    return b"\x80\x02}" + text("_conv_stem.weight") + view + b"tRs."


def descriptions() -> dict[str, bytes]:
    """Good ones, by themselves and in an archive."""
    full = {"variant": "B0", "class_names": ["a", "犬"], "image_size": 8, "crop_fraction": 0.875}
    full |= {"pixel_mean": [1, 2.5, 3], "pixel_std": [1, 1, 1], "license": "MIT", "recipe": "a\nb"}
    text = json.dumps(full, ensure_ascii=False)
    with zipfile.ZipFile(archive := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("keras_efficientnet.json", text)
    content = archive.getvalue()
    # A name in the list of members that is not UTF-8 though it is marked so.
    at = content.rindex(b"keras_efficientnet.json")
    foreign = bytearray(content)
    foreign[at + 3], foreign[at - 46 + 9] = 0xAB, 0x08
    return {"full": text.encode(), "archive": content, "foreign": bytes(foreign)}


def main() -> None:
    """Writes a file for every seed."""
    tree = b"a/1.png\timage\na/2.png\timage\nb/1.png\timage\nb/2.jpg\timage"
    odd = "\nb/up\tlink..\nb/pipe.png\tpipe\nb/x.png\tlinkx.png\nb/deep/雪.gif\timage\nc\tfolder"
    rows = b"path,label\n0.png,red\n1.png,red\n2.png,blue\n3.png,blue\n"
    split = b"path,label,split\r\n0.png,a,train\r\n1.png,b,train\r\n2.png,a,val\r\n3.png,b,val\r\n"
    seeds = {
        "image": image_files(),
        "csv": {"plain": rows, "split": b"\xef\xbb\xbf" + split},
        "class_folders": {"plain": tree, "odd": tree + odd.encode()},
        "weight_file": weight_files(),
        "description": descriptions(),
        "keras_config": {"golden": targets.golden_keras()["config.json"]},
        "command_line": {str(i): bytes([i, 2, i + 1, 3 * i, i + 2, i]) for i in range(0, 20, 3)},
        "specification": {str(i): bytes(range(i, i + 12)) for i in range(0, 60, 12)},
    }
    for target, files in seeds.items():
        (HERE / target).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (HERE / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
