"""Texts that pictures are compared with, as options of commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from raytrain_xai.language.encoder import LanguageEncoder


def label_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--label``, ``--vocabulary`` and ``--templates``."""
    for option in (
        click.option("--templates", default="plain", show_default=True, metavar="FAMILY", help="Sentences around it."),
        click.option("--vocabulary", metavar="NAME", help="Texts of a list: common, coco, voc, imagenet or a file."),
        click.option("--label", "labels", multiple=True, metavar="TEXT", help="A text; repeatable."),
    ):
        command = option(command)
    return command


def texts_of(labels: Sequence[str], vocabulary: str | None) -> tuple[str, ...]:
    """Texts that were asked for, each once.

    Raises:
        ConfigError: none, or no such vocabulary.
        DataError: the vocabulary cannot be read.
    """
    from raytrain_xai.language.vocabulary import read_vocabulary

    listed = read_vocabulary(vocabulary).terms if vocabulary else ()
    texts = tuple(dict.fromkeys((*labels, *listed)))
    if not texts:
        raise ConfigError("no text to compare pictures with; give --label TEXT, more than once, or --vocabulary NAME")
    return texts


def vectors_of(encoder: LanguageEncoder, texts: Sequence[str], templates: str) -> Tensor:
    """(M, D) unit vectors of texts.

    Raises:
        ConfigError: no such family of templates, or an empty text.
    """
    from raytrain_xai.language.prompts import embed_terms, find_family

    return embed_terms(encoder, texts, find_family(templates))
