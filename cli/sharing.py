"""Commands that hand forecasters on: ``push``, ``pull`` and ``card``."""

from __future__ import annotations

import click

from weightcast.cli.console import echo, json_option, output_option


@click.command()
@click.argument("forecaster", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace what was pushed there before.")
@click.option("--private", is_flag=True, help="Of the Hub: nobody else sees it.")
def push(forecaster: str, target: str, overwrite: bool, private: bool) -> None:
    """Share a forecaster: put it and its card into a folder, or onto the Hugging Face Hub.

    TARGET is a folder of its own, or hf://owner/name (needs the extra 'hub', and a token: 'hf auth
    login' or HF_TOKEN). The card says what the forecaster's file knows: options, datasets and their
    paths, measured errors. Read it first: 'weightcast card FORECASTER'.

    \b
    Example:
      weightcast push introspection.safetensors shared/introspection
    """
    from weightcast.predictor import push as push_forecaster

    place = push_forecaster(forecaster, target, overwrite=overwrite, private=private)
    echo(f"{forecaster} is in {place}")


@click.command()
@click.argument("source", type=click.Path())
@output_option("Forecaster file to write.")
def pull(source: str, output: str, overwrite: bool) -> None:
    """Get a shared forecaster, from a folder or the Hugging Face Hub.

    SOURCE is a folder that 'push' made, hf://owner/name or hf://owner/name@revision. The file is
    checked before it is kept.

    \b
    Example:
      weightcast pull shared/introspection -o pulled.safetensors
    """
    from weightcast.predictor import pull as pull_forecaster

    header = pull_forecaster(source, output, overwrite=overwrite)
    echo(f"{header.model} forecaster in {output}; see it with 'weightcast card {output}'")


@click.command()
@click.argument("forecaster", type=click.Path())
@json_option
def card(forecaster: str, as_json: bool) -> None:
    """Show what a forecaster is, where it comes from and what it was measured to do.

    Nothing of the file is run, and no type has to be trusted.

    \b
    Example:
      weightcast card introspection.safetensors
    """
    import json

    from weightcast.predictor import card_text, header_of

    header = header_of(forecaster)
    echo(json.dumps(vars(header), indent=2) if as_json else card_text(header))
