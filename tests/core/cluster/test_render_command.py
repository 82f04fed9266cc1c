"""The command: what it writes, says and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from kustomize_build import build
from shipped_values import ROOT, render

from raytrain_xai.cli.main import cli
from raytrain_xai.errors import ConfigError

VALUES = str(ROOT / "cluster" / "values" / "base.yaml")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["cluster", "render", *arguments])
    if isinstance(result.exception, ConfigError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_it_writes_a_folder_and_says_what_a_month_takes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(
        "--values", VALUES, "--out", str(out), "--set", "name=team", "--set", "storage.bucket=pictures",
        "--set", "estimate={duty: 0.5, price_per_gpu_hour: 2.5}",
    ).output.splitlines()  # fmt: skip
    written = [Path(line) for line in said if line.startswith(str(out))]
    assert {path.name for path in written} == {path.name for path in out.iterdir()}
    assert written[0].name == "kustomization.yaml"
    # train 0 to 4 at half the time, serve 2 to 4: 730 x (0..2), 730 x (2..3)
    assert said[-4:] == [
        " train  0 to 1460 GPU-hours a month, 0 to 3650 at 2.5 an hour",
        " serve  1460 to 2190 GPU-hours a month, 3650 to 5475 at 2.5 an hour",
        " total  1460 to 3650 GPU-hours a month",
        "jobs with clusters of their own come on top while they run beside these workers",
    ]
    found = build(out)
    assert {manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] for manifest in found} == {"team"}
    job = next(manifest for manifest in found if manifest["metadata"]["name"] == "train")
    assert "--set storage=s3://pictures/runs" in job["spec"]["entrypoint"]


def test_without_a_duty_it_says_how_to_give_one(tmp_path: Path) -> None:
    assert "say --set estimate.duty=0.3" in run("--values", VALUES, "--out", str(tmp_path / "out")).output
    assert "no workers with GPUs" in run(
        "--values", VALUES.replace("base", "cpu"), "--out", str(tmp_path / "cpu")
    ).output  # fmt: skip


def test_a_second_rendering_replaces_the_first(tmp_path: Path) -> None:
    run("--values", VALUES, "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "rayservice-raytrain-xai-serve.yaml").is_file()
    run("--values", VALUES, "--out", str(tmp_path / "out"), "--set", "serve=null")
    assert not (tmp_path / "out" / "rayservice-raytrain-xai-serve.yaml").exists()
    assert len(build(tmp_path / "out")) == len(list((tmp_path / "out").iterdir())) - 1


def test_with_a_base_only_differences_are_written(tmp_path: Path) -> None:
    run("--values", VALUES, "--out", str(tmp_path / "base"))
    overlay = str(tmp_path / "overlay")
    run("--values", VALUES, "--out", overlay, "--base", str(tmp_path / "base"), "--set", "data.max_replicas=9")
    assert [file.name for file in Path(overlay).iterdir()] == ["kustomization.yaml"]
    index = yaml.safe_load(Path(overlay, "kustomization.yaml").read_text(encoding="utf-8"))
    assert index["resources"] == ["../base"]
    kinds = {entry["target"]["kind"] for entry in index["patches"]}
    assert kinds == {"RayCluster", "RayJob", "RayCronJob"}
    assert all(yaml.safe_load(entry["patch"])[0]["value"] == 9 for entry in index["patches"])


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="holds files that are not a rendering; give an empty or a new folder"):
        run("--values", VALUES, "--out", str(tmp_path))
    with pytest.raises(ConfigError, match="holds no complete rendering"):
        run("--values", VALUES, "--out", str(tmp_path / "out"), "--base", str(tmp_path))
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        from raytrain_xai.cluster.render import write_manifests

        write_manifests(render("base").found, tmp_path / "notes.txt")


def test_nothing_is_written_for_wrong_values(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key data.cpus; did you mean cpu\?"):
        run("--values", VALUES, "--out", str(tmp_path / "out"), "--set", "data.cpus=4")
    assert not (tmp_path / "out").exists()


def test_the_service_of_a_user_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("applications: [{import_path: 'serve.app:build', args: {model: x}}]", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown key model; did you mean models\?"):
        run("--values", VALUES, "--out", str(tmp_path / "out"), "--set", f"serve.config={file}")
    file.write_text("applications: [{import_path: 'other:app'}]", encoding="utf-8")
    with pytest.raises(ConfigError, match="no application with import_path: serve.app:build"):
        run("--values", VALUES, "--out", str(tmp_path / "out"), "--set", f"serve.config={file}")
    with pytest.raises(ConfigError, match="no configuration file at"):
        run("--values", VALUES, "--out", str(tmp_path / "out"), "--set", "serve.config=nowhere.yaml")
