"""The guide keeps up with the program: every config key with its default and every command is
described and nothing else is, links lead somewhere, and every config and sweep in configs/ is
accepted."""
import re
import subprocess
import tempfile

import tree

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)")
# | `model.layers` | `8` | meaning |   a default told in words has no backticks and is not compared
ROW = re.compile(r"^\| `(name|\w+(?:\.[a-z_]\w*)+)` \| (.+?) \|", re.M)


def inspect(binary, config):
    """What `quietformer inspect` says of a config: (exit status, output)."""
    done = subprocess.run([binary, "inspect", config], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def items(inline):
    """The key: value pairs of an inline YAML map."""
    return re.findall(r"(\w+): ([^,{}\[\]]+|\[.*?\])(?:, |$)", inline)


def resolved(yaml):
    """Key -> value of a fully resolved config as the program prints it."""
    values, section = {}, ""
    for line in yaml.splitlines():
        match = re.match(r"( *)(\w+):(?: (.*))?$", line)
        if not match:
            continue
        indent, key, value = len(match[1]), match[2], match[3]
        if not value:
            section = key
        elif indent and value.startswith("{"):
            for inner, inner_value in items(value.strip("{}")):
                values[f"{section}.{key}.{inner}"] = inner_value
        else:
            values[f"{section}.{key}" if indent else key] = value
    return values


def check_keys(root, binary):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write("{}\n")
        config.flush()
        status, output = inspect(binary, config.name)
    if status != 0:
        yield f"an empty config is refused: {output}"
        return
    real = resolved(output.partition("config:\n")[2])
    if len(real) < 20:
        yield f"only {len(real)} config keys found: this test no longer reads the output right"
    rows = ROW.findall((root / "docs/configuration.md").read_text())
    documented = dict(rows)
    if len(documented) != len(rows):
        yield "docs/configuration.md: a key is described twice"
    for key, value in real.items():
        if key not in documented:
            yield f"docs/configuration.md: {key} is not described"
        elif documented[key].startswith("`") and documented[key].strip("`") != value.strip('"'):
            yield f"docs/configuration.md: {key}: {documented[key]}, the program has {value}"
    for key in documented:
        if key not in real:
            yield f"docs/configuration.md: {key} is no config key"


def check_configs(root, binary):
    files = [path for path in tree.files(root / "configs") if path.suffix == ".yaml"]
    sweeps = [path for path in files if path.parent.name == "sweeps"]
    configs = [path for path in files if path not in sweeps]
    if not configs or not sweeps:
        yield "no configs"
    for sweep in sweeps:
        done = subprocess.run([binary, "sweep", sweep, "--dry-run"], capture_output=True, text=True)
        if done.returncode != 0:
            yield f"{sweep.relative_to(root)}: refused: {done.stderr.strip()}"
    names = {}
    for config in configs:
        status, output = inspect(binary, config)
        if status != 0:
            yield f"{config.relative_to(root)}: refused: {output.strip()}"
        name = re.search(r"^name: (.+)$", output, re.M)
        if name and names.setdefault(name[1], config) != config:
            yield f"{config.relative_to(root)}: has the name of {names[name[1]].relative_to(root)}"


def check_commands(root, binary):
    readme = (root / "README.md").read_text()
    output = subprocess.run([binary, "--help"], capture_output=True, text=True).stdout
    commands = re.findall(r"^  (\w+) ", output.partition("Subcommands:")[2], re.M)
    if not commands:
        yield "no commands found: this test no longer reads --help right"
    for command in commands:
        if f"quietformer {command}" not in readme:
            yield f"README.md: no word about quietformer {command}"


def check_links(root):
    for page in (path for path in tree.files(root) if path.suffix == ".md"):
        for target in LINK.findall(page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                yield f"{page.relative_to(root)}: link to {target}, which does not exist"


def main():
    options = tree.arguments("--binary")
    root, binary = options.root.resolve(), options.binary.resolve()
    findings = [*check_keys(root, binary), *check_configs(root, binary),
                *check_commands(root, binary), *check_links(root)]
    tree.finish(findings, "documentation and configs")


main()
