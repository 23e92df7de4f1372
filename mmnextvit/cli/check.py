"""Find what is wrong with a config's data, without training.

Every image is decoded once. All is reported in one pass, by its weight: with an error a
training would end or be of no use, and the exit code is 1.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from ..utils.errors import UserError
from .arguments import add_config, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        '--work-dir',
        help='folder that the training is to write to (./work_dirs/<config>)',
    )
    parser.add_argument(
        '--json', action='store_true', help='print one JSON document, and nothing else'
    )


def run(args: argparse.Namespace) -> None:
    # What logs and progress bars print stays apart from the report.
    with contextlib.redirect_stdout(sys.stderr):
        from ..doctor.checks import run_checks
        from ..doctor.findings import count_levels, plural
        from ..doctor.gather import gather_facts
        from ..doctor.report import format_json, format_report
        from ..engine.terminal import at_level

        cfg = load_config(args)
        default = f'./work_dirs/{Path(args.config).stem}'
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or default
        with at_level('WARNING'):  # the report says what is there
            facts = gather_facts(cfg)
        findings = run_checks(facts)
    form = format_json if args.json else format_report
    print(form(args.config, facts, findings))
    errors = count_levels(findings)['error']
    if errors:
        raise UserError(plural(errors, 'error'), file=args.config)
