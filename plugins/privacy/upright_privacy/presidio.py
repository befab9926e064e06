"""What Microsoft's Presidio finds beside our own patterns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from upright.errors import ConfigError, PluginError
from upright_privacy.patterns import Hit
from upright_privacy.token_classifier import Ner

KINDS = {
    "PERSON": "person",
    "LOCATION": "place",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "US_SSN": "national-id",
    "US_ITIN": "national-id",
    "UK_NHS": "national-id",
    "US_PASSPORT": "passport",
}
"""Presidio's entities -> ours. E-mail and URL are left to our patterns: Presidio asks the network for them (tldextract)."""
NO_OP = {"nlp_engine_name": "no_op", "models": [{"lang_code": "en", "model_name": "no_op"}]}
THRESHOLD = 0.4
"""Below it are patterns that say little without words around them, which `no_op` does not read."""


def presidio(conf: Path | None, kinds: frozenset[str], told: str) -> Ner:
    """Presidio's analyzer with the NLP engine of a configuration file, or without one (`no_op`): its patterns alone then.

    Raises PluginError where Presidio or the engine's model is not installed, ConfigError for a file that is none.
    """
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError as error:
        raise PluginError(
            f"{told}.ner: presidio-analyzer is not installed; pip install 'upright-privacy[presidio]'"
        ) from error
    for name in ("presidio-analyzer", "tldextract"):
        logging.getLogger(name).setLevel(logging.ERROR)
    settings = (
        _read(conf, told)
        if conf
        else {"nlp_engine_name": "no_op", "models": [{"lang_code": "en", "model_name": "no_op"}]}
    )
    languages = [str(model["lang_code"]) for model in settings["models"]]
    try:
        engine = NlpEngineProvider(nlp_configuration=settings).create_engine()
        analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=languages)
    except Exception as error:  # whatever its engines raise, the file is what says which one
        raise ConfigError(
            f"{told}.presidio_conf: Presidio does not start with it ({_line(error)}); mend {conf}"
        ) from error
    wanted = {
        language: [name for name in analyzer.get_supported_entities(language) if KINDS.get(name) in kinds]
        for language in languages
    }

    def find(texts: list[str]) -> list[list[Hit]]:
        return [
            [
                Hit(KINDS[found.entity_type], found.start, found.end)
                for language, names in wanted.items()
                if names
                for found in analyzer.analyze(text, language, entities=names, score_threshold=THRESHOLD)
            ]
            for text in texts
        ]

    return find


def _read(conf: Path, told: str) -> dict[str, Any]:
    """The file, where every model that it names is on this machine: Presidio would fetch one that is not."""
    import yaml

    try:
        settings = yaml.safe_load(conf.read_text(encoding="utf-8"))
        models = [model["model_name"] for model in settings["models"]]
        settings["nlp_engine_name"], [model["lang_code"] for model in settings["models"]]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{told}.presidio_conf: {conf} is no configuration of an NLP engine of Presidio ({_line(error)}); see its "
            "documentation on NLP engines"
        ) from error
    from spacy.util import is_package

    for model in models:
        name = model["spacy"] if isinstance(model, dict) else model
        if settings["nlp_engine_name"] in ("spacy", "transformers") and not (is_package(name) or Path(name).is_dir()):
            raise PluginError(
                f"{told}.presidio_conf: spaCy's model {name!r} is not installed; install it or name another"
            )
    return dict(settings)


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
