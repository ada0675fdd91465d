"""What MkDocs adds to the pages of docs/: pages and pictures from outside of it, and the help of every command."""

import pathlib
import re
import subprocess
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md"}
PICTURE = re.compile(r"\]\((?:\.\./)?(results/[^)]*\.png)\)")
COMMANDS = """# Commands

Installed, the command is `resnet-jax VERB`; in a checkout, `python -m resnet_jax VERB` is the same.

## train

```
resnet-jax train CONFIG --workdir=DIR [--mode=train|eval|replay|list] [--variant=K] [--config.FIELD=VALUE ...]
```

CONFIG is a file, or the name of one of the project's: `digits`, `resnet50:rsb_a2`, `sweeps/degradation`. In a checkout,
`python main.py --config=CONFIG` with the same flags is the same command. `resnet-jax train --help` lists the [config
fields](config.md), `--help=WORD` those that mention a word.
"""


def on_files(files, config):
    """Add the generated pages, and the pictures of results/ that pages show."""
    for page, source in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    files.append(File.generated(config, "commands.md", content=commands()))
    texts = [path.read_text() for path in (ROOT / "docs").glob("*.md")] + [(ROOT / "README.md").read_text()]
    for picture in sorted({picture for text in texts for picture in PICTURE.findall(text)}):
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def on_page_markdown(markdown, page, **_):
    """Point links at the site's own pages and pictures; links to folders of records become their names."""
    if page.file.src_uri == "api.md":
        markdown += measurements()
    markdown = PICTURE.sub(r"](\1)", markdown)
    markdown = re.sub(r"\[([^]]*)\]\((?:\.\./)?(results/[\w/.-]*)(?<!\.png)\)", r"\1 (`\2`)", markdown)
    markdown = re.sub(
        r"\]\((?:\.\./)?(CONTRIBUTING|SECURITY)\.md\)", lambda found: f"]({found[1].lower()}.md)", markdown
    )
    return re.sub(r"\]\(docs/", "](", markdown)


def measurements():
    """Return an entry of the API page for each function of resnet_jax.lab.analysis."""
    from resnet_jax.lab import analysis

    return "".join(f"\n::: {getattr(analysis, name).__module__}.{name}" for name in analysis.__all__)


def commands():
    """Return the page of the commands' help, as the commands print it."""
    python = [sys.executable, "-m", "resnet_jax"]
    from resnet_jax.__main__ import VERBS

    page = COMMANDS
    for verb in list(VERBS)[1:]:  # without train, whose help is the page of the config fields
        shown = subprocess.run([*python, verb, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
        page += f"\n## {verb}\n\n```\n{shown.stdout}```\n"
    return page
