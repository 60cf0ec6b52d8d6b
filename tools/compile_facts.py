"""Makes `registry/facts/*` from the collected facts, and prints the sections of catalog.yaml that rest on them.

    python tools/compile_facts.py FACTS_FOLDER DIFFUSERS_GIT_DIRECTORY > sections.yaml

The git directory is a clone of diffusers at the commit that the facts name; precision and LoRA bases are what the
cited places say. The printed sections were reviewed by hand before they became part of catalog.yaml.
"""

import csv
import inspect
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent.parent / "registry" / "facts"
COMMIT = "58eb52c"
TYPES = {
    "prompt": "string", "prompt_2": "string", "negative_prompt": "string", "negative_prompt_2": "string",
    "source_prompt": "string", "height": "integer", "width": "integer", "num_frames": "integer",
    "num_inference_steps": "integer", "guidance_scale": "number", "true_cfg_scale": "number", "strength": "number",
    "image_guidance_scale": "number", "guidance_rescale": "number", "noise_level": "integer", "fps": "integer",
    "frame_rate": "number", "audio_length_in_s": "number", "class_labels": "Array<integer>", "frame_size": "integer",
    "controlnet_conditioning_scale": "number", "eta": "number", "clip_skip": "integer",
}  # fmt: skip
FILES = {
    "image": "image_url", "mask_image": "mask_url", "control_image": "control_image_url", "video": "video_url",
    "last_image": "last_image_url", "pose_video": "pose_video_url", "face_video": "face_video_url",
    "reference_image": "reference_image_url", "mask": "mask_url",
}  # fmt: skip
# Not whole products: their call takes or gives embeddings and latents, which no JSON caller has.
PARTS = {
    "KandinskyPriorPipeline", "KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline", "FluxPriorReduxPipeline",
    "StableCascadePriorPipeline", "LTXLatentUpsamplePipeline", "SpectrogramDiffusionPipeline",
    "StableDiffusionPix2PixZeroPipeline",
}  # fmt: skip
SKIPPED_TASKS = {"training", "text/json"}
RULES = (  # the first that fits a class's name says its task
    ("VideoToVideo|VACE|LucyEdit|WanAnimate$|VideoToWorld", "video-to-video"),
    ("Prompt2Prompt|CycleDiffusion|Pix2Pix|Edit(?!ing)|Kontext$|I2I|JoyImage", "image-to-image"),
    ("Inpaint|Fill|RePaint", "inpainting"),
    ("ImageToVideo|Image2Video|I2V|StableVideo|Framepack|ConsisID|LTX2InContext", "image-to-video"),
    ("Upscale|SuperResolution", "image-upscaling"),
    ("Audio|AceStep|MusicLDM", "text-to-audio"),
    ("ShapEImg2Img", "image-to-3d"),
    ("ShapE", "text-to-3d"),
    ("Img2Img|ImageVariation|Depth2Img|Layered|FluxControl$|Image2Image|VisualCloze", "image-to-image"),
    ("MarigoldDepth", "depth-estimation"),
    ("MarigoldNormals", "normals-estimation"),
    ("MarigoldIntrinsics", "intrinsics-estimation"),
    ("Cosmos2TextToImage|T2I|OmniGen|HunyuanImage|HunyuanDiT", "text-to-image"),
    ("Video|WanPipeline|Wan$|T2V|LTX|Mochi|Allegro|Latte|AnimateDiff|CogVideo|World|SkyReels|EasyAnimate|AnyFlow|Helios|Cosmos3", "text-to-video"),
    ("^DDIM$|^DDPM$|^PNDM$|^LDM$|ConsistencyModel$|^DiT$", "unconditional-image"),
)  # fmt: skip
# Bases that the place named in open_loras.tsv loads the adapter onto (read there, one by one).
BASES = {
    "alvarobartt/ghibli-characters-flux-lora": "black-forest-labs/FLUX.1-dev",
    "benjamin-paine/steamboat-willie-1.3b": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    "benjamin-paine/steamboat-willie-14b": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
    "black-forest-labs/FLUX.1-Canny-dev-lora": "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.1-Depth-dev-lora": "black-forest-labs/FLUX.1-dev",
    "CiroN2022/toy-face": "stabilityai/stable-diffusion-xl-base-1.0",
    "diffusers/animatediff-motion-lora-pan-left": "SG161222/Realistic_Vision_V5.1_noVAE",
    "diffusers/animatediff-motion-lora-zoom-out": "SG161222/Realistic_Vision_V5.1_noVAE",
    "finetrainers/CogVideoX-1.5-crush-smol-v0": "THUDM/CogVideoX-5b",
    "flymy-ai/qwen-image-realism-lora": "Qwen/Qwen-Image",
    "guoyww/animatediff-motion-lora-tilt-up": "emilianJR/epiCRealism",
    "guoyww/animatediff-motion-lora-zoom-in": "frankjoshua/toonyou_beta6",
    "guoyww/animatediff-motion-lora-zoom-out": "SG161222/Realistic_Vision_V5.1_noVAE",
    "jbilcke-hf/sdxl-cinematic-1": "stabilityai/stable-diffusion-xl-base-1.0",
    "latent-consistency/lcm-lora-sdv1-5": "Lykon/dreamshaper-7",
    "latent-consistency/lcm-lora-sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "Lightricks/LTX-2": "Lightricks/LTX-2",
    "Lightricks/LTX-2.5-Diffusers": "Lightricks/LTX-2.5-Diffusers",
    "Lightricks/LTX-Video-Cakeify-LoRA": "Lightricks/LTX-Video-0.9.5",
    "lightx2v/Qwen-Image-Lightning": "Qwen/Qwen-Image",
    "linoyts/yarn_art_Flux_LoRA": "black-forest-labs/FLUX.1-dev",
    "lordjia/by-feng-zikai": "stabilityai/stable-diffusion-xl-base-1.0",
    "nerijs/pixel-art-xl": "stabilityai/stable-diffusion-xl-base-1.0",
    "nvidia/ChronoEdit-14B-Diffusers": "nvidia/ChronoEdit-14B-Diffusers",
    "nvidia/ChronoEdit-14B-Diffusers-Paint-Brush-Lora": "nvidia/ChronoEdit-14B-Diffusers",
    "ostris/ikea-instructions-lora-sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "ostris/super-cereal-sdxl-lora": "stabilityai/stable-diffusion-xl-base-1.0",
    "TheLastBen/Papercut_SDXL": "stabilityai/stable-diffusion-xl-base-1.0",
    "wangfuyun/AnimateLCM": "SG161222/Realistic_Vision_V5.1_noVAE",
    "sd15_lora_beta.safetensors": "emilianJR/epiCRealism",
}


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def write(name: str, rows: list[dict[str, str]]) -> None:
    with (OUT / name).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def task_of(class_name: str) -> str:
    name = class_name.removesuffix("Pipeline")
    return next((task for pattern, task in RULES if re.search(pattern, name)), "text-to-image")


def parameters_of(class_name: str) -> dict[str, Any] | None:
    """What JSON can say of a call; None when the call needs something else."""
    import diffusers

    found: dict[str, Any] = {}
    pipeline = getattr(diffusers, class_name)
    if type(pipeline).__name__ == "DummyObject":  # stands for one whose libraries are not installed
        return None
    for name, parameter in inspect.signature(pipeline.__call__).parameters.items():
        required = parameter.default is inspect.Parameter.empty
        if name in FILES or name in TYPES:
            value = {"type": TYPES.get(name, "string")} | ({"required": True} if required else {})
            if isinstance(parameter.default, int | float | str) and not isinstance(parameter.default, bool):
                value["default"] = parameter.default
            found[FILES.get(name, name)] = value
        elif name in {"num_images_per_prompt", "num_videos_per_prompt"}:
            found["num_images" if "images" in name else "num_videos"] = {"type": "integer", "default": 1}
        elif required and name not in {"self", "args", "kwargs"}:
            return None
    found["seed"] = {"type": "integer"}
    if any("Lora" in base.__name__ for base in pipeline.__mro__):
        found["loras"] = {"type": "loras"}
    return found


def precision_of(text: str, repo: str, class_name: str) -> str:
    for match in re.finditer(re.escape(class_name) + r"\.from_pretrained\((.*?)\)", text, re.DOTALL):
        dtype = re.search(r"dtype=torch\.(\w+)", match[1])
        if f'"{repo}"' in match[1] and dtype:
            return dtype[1]
    return ""


def show(git: str, path: str) -> str:
    done = subprocess.run(
        ["git", "--git-dir", git, "show", f"{COMMIT}:{path}"], capture_output=True, text=True, check=True
    )
    return done.stdout


def open_weights(folder: Path, git: str) -> list[dict[str, str]]:
    import diffusers

    kept = []
    for row in rows_of(folder / "open_weights.tsv"):
        name = row["class"]
        whole = name.endswith("Pipeline") or name.startswith("AutoPipeline")
        if (
            not whole
            or name in PARTS | {"DiffusionPipeline"}
            or "Modular" in name
            or not hasattr(diffusers, name)
        ):
            continue
        row["precision"] = precision_of(show(git, row["seen_in"]), row["repo"], name)
        kept.append(row)
    return kept


def print_open(rows: list[dict[str, str]]) -> None:
    families: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        families[row["repo"]].append(row)
    for repo, members in sorted(families.items(), key=lambda item: item[0].lower()):
        print(f"  {repo}:\n    <<: *open\n    hub: {repo}\n    variants:")
        used: set[str] = set()
        for row in sorted(
            members,
            key=lambda row: (
                row["class"].startswith("Auto"),
                task_of(row["class"]) != "text-to-image",
                row["class"],
            ),
        ):
            task = task_of(row["class"])
            kebab = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", row["class"].removesuffix("Pipeline")).lower()
            slug = next(name for name in (repo, f"{repo}/{task}", f"{repo}/{kebab}") if name not in used)
            used.add(slug)
            precision = f", defaults: {{dtype: {row['precision']}}}" if row["precision"] else ""
            print(f"      {slug}: {{task: {task}, pipeline: {row['class']}{precision}}}")


def print_partners(endpoints: list[dict[str, Any]]) -> None:
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for endpoint in endpoints:
        families["/".join(endpoint["slug"].split("/")[:2])].append(endpoint)
    for family, members in families.items():
        task = Counter(member["task"] for member in members).most_common(1)[0][0]
        print(f"  {family}:\n    <<: *fal\n    task: {task}\n    variants:")
        for member in members:
            own = "" if member["task"] == task else f"task: {member['task']}"
            print(f"      {member['slug']}: {{{own}}}")


def print_adapters(loras: list[dict[str, str]], slugs: set[str]) -> None:
    print("adapters:")
    for row in loras:
        files = [name for name in row["weight_names"].split(";") if name]
        for file in files or [""]:
            several = len(files) > 1 or row["repo"] in slugs
            slug = f"{row['repo']}/{Path(file).stem}" if several else row["repo"]
            weights = f", weights: {file}" if file else ""
            print(
                f"  {slug}: {{<<: *lora, base: {BASES.get(file, BASES[row['repo']])}, hub: {row['repo']}{weights}}}"
            )


def main() -> None:
    folder, git = Path(sys.argv[1]), sys.argv[2]
    lines = (folder / "endpoints.jsonl").read_text().splitlines()
    endpoints = [value for value in map(json.loads, lines) if value["task"] not in SKIPPED_TASKS]
    (OUT / "endpoints.jsonl").write_text(
        "".join(json.dumps(e, separators=(",", ":")) + "\n" for e in endpoints)
    )
    weights = open_weights(folder, git)
    signatures = {name: parameters_of(name) for name in sorted({row["class"] for row in weights})}
    weights = [row for row in weights if signatures[row["class"]] is not None]
    write("open_weights.tsv", weights)
    known = {name: value for name, value in signatures.items() if value is not None}
    (OUT / "pipelines.json").write_text(
        "{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(v)}" for n, v in known.items()) + "\n}\n"
    )
    loras = rows_of(folder / "open_loras.tsv")
    loras = [row for row in loras if row["repo"] in BASES]  # the rest's base is no pipeline we can list
    write("open_loras.tsv", loras)
    print_open(weights)
    print_partners(endpoints)
    print_adapters(loras, {row["repo"] for row in weights})


if __name__ == "__main__":
    main()
