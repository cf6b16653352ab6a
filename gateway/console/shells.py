"""Completion for bash, zsh and fish, made from the command line's own description. Pure: text out.

Rule: the scripts ask nobody; they hold every word, and are made anew with each version of the program.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from gateway.console.command_tree import Argument, Command

PROGRAM: Final = "condor-gateway"


def bash(tree: Command) -> str:
    """Return a script for bash 4 or later."""
    commands = list(tree.walk())
    paths = [_path(command) for command in commands if command.words]
    values = [line for command in commands for line in _bash_values(command)]
    words = [
        f"        {_path(command) or _EMPTY}) flags={_quoted(_flags(command))}; words={_quoted(_words(command))};"
        f" files={'yes' if _takes_files(command) else ''} ;;"
        for command in commands
    ]
    return _BASH.format(program=PROGRAM, paths="|".join(paths), values="\n".join(values), words="\n".join(words))


_EMPTY: Final = "''"
_BASH: Final = """\
# bash completion for {program}, written by '{program} completion bash'
_condor_gateway() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} at= i flags= words= files=
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at/${{COMP_WORDS[i]}}" in
        {paths}) at="$at/${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$at:$prev" in
{values}
    esac
    case "$at" in
{words}
    esac
    if [[ $cur == -* ]]; then
        words=$flags
    elif [[ $files ]]; then
        compopt -o filenames 2>/dev/null || :
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}}
complete -F _condor_gateway {program}
"""


def _bash_values(command: Command) -> list[str]:
    """Return what may follow each option that takes a value, a line of a `case` each."""
    lines = []
    for option in command.options:
        patterns = "|".join(f"{_path(command)}:{flag}" for flag in option.flags)
        if option.choices:
            reply = f'mapfile -t COMPREPLY < <(compgen -W {_quoted(" ".join(option.choices))} -- "$cur"); return'
        elif option.is_file:
            reply = 'compopt -o filenames 2>/dev/null || :; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return'
        elif option.value:
            reply = "return"
        else:
            continue
        lines.append(f"        {patterns}) {reply} ;;")
    return lines


def zsh(tree: Command) -> str:
    """Return a script for zsh, to be found in `fpath` as `_condor-gateway`."""
    commands = list(tree.walk())
    paths = "|".join(_path(command) for command in commands if command.words)
    lines = []
    for command in commands:
        described = " ".join(_quoted(f"{_last(inner)}:{inner.help}") for inner in command.commands)
        choices = " ".join(_quoted(choice) for one in command.positionals for choice in one.choices)
        options = " ".join(_quoted(f"{flag}:{option.help}") for option in command.options for flag in option.flags)
        files = "yes" if _takes_files(command) else ""
        lines.append(
            f"    ({_path(command) or _EMPTY}) offered_flags=({options});"
            f" offered_words=({described} {choices}); files={files} ;;"
        )
    values = []
    for command in commands:
        for option in command.options:
            patterns = "|".join(f"{_path(command)}:{flag}" for flag in option.flags)
            if option.choices:
                values.append(
                    f"    ({patterns}) compadd -- {' '.join(_quoted(one) for one in option.choices)}; return ;;"
                )
            elif option.is_file:
                values.append(f"    ({patterns}) _files; return ;;")
            elif option.value:
                values.append(f"    ({patterns}) return ;;")
    return _ZSH.format(program=PROGRAM, paths=paths, values="\n".join(values), words="\n".join(lines))


_ZSH: Final = """\
#compdef {program}
# zsh completion for {program}, written by '{program} completion zsh'
_condor_gateway() {{
  local at= files= i
  local -a offered_flags offered_words
  for ((i = 2; i < CURRENT; i++)); do
    case "$at/${{words[i]}}" in
    ({paths}) at="$at/${{words[i]}}" ;;
    esac
  done
  case "$at:${{words[CURRENT-1]}}" in
{values}
  esac
  case "$at" in
{words}
  esac
  if [[ ${{words[CURRENT]}} == -* ]]; then
    _describe -o option offered_flags
  elif [[ -n $files ]]; then
    _files
  else
    _describe command offered_words
  fi
}}
compdef _condor_gateway {program}
"""


def fish(tree: Command) -> str:
    """Return a script for fish."""
    lines = [f"# fish completion for {PROGRAM}, written by '{PROGRAM} completion fish'", f"complete -c {PROGRAM} -f"]
    for command in tree.walk():
        condition = _fish_condition(command)
        below = [_last(inner) for inner in command.commands]
        fresh = (
            f"{condition}; and not __fish_seen_subcommand_from {' '.join(below)}"
            if condition
            else "__fish_use_subcommand"
        )
        for inner in command.commands:
            named = f"-a {_fish_quoted(_last(inner))} -d {_fish_quoted(inner.help)}"
            lines.append(f"complete -c {PROGRAM} -n {_fish_quoted(fresh)} {named}")
        lines += [_fish_option(option, condition) for option in command.options]
        for argument in command.positionals:
            if argument.choices:
                lines.append(
                    f"complete -c {PROGRAM} -n {_fish_quoted(condition)} -a {_fish_quoted(' '.join(argument.choices))}"
                )
            elif argument.is_file:
                lines.append(f"complete -c {PROGRAM} -n {_fish_quoted(condition)} -F")
    return "\n".join(lines) + "\n"


def _fish_condition(command: Command) -> str:
    return "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.words)


def _fish_option(option: Argument, condition: str) -> str:
    words = [f"complete -c {PROGRAM}"]
    words += [f"-n {_fish_quoted(condition)}"] if condition else []
    for flag in option.flags:
        words.append(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}")
    if option.choices:
        words.append(f"-x -a {_fish_quoted(' '.join(option.choices))}")
    elif option.is_file:
        words.append("-r -F")
    elif option.value:
        words.append("-x")
    return " ".join([*words, f"-d {_fish_quoted(option.help)}"])


def _path(command: Command) -> str:
    """Return a command as the scripts know it: `/lab/up`; "" for the program itself."""
    return "".join(f"/{word}" for word in command.words)


def _last(command: Command) -> str:
    return command.words[-1]


def _flags(command: Command) -> str:
    return " ".join(flag for option in command.options for flag in option.flags)


def _words(command: Command) -> str:
    """Return what may stand where no option is typed: commands, or the choices of a positional argument."""
    names = [_last(inner) for inner in command.commands]
    return " ".join([*names, *(choice for argument in command.positionals for choice in argument.choices)])


def _takes_files(command: Command) -> bool:
    return any(argument.is_file for argument in command.positionals)


def _quoted(text: str) -> str:
    """Return a word in single quotes, as bash and zsh read it."""
    return "'" + text.replace("'", "'\\''") + "'"


def _fish_quoted(text: str) -> str:
    """Return a word in single quotes, as fish reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Final[Mapping[str, Callable[[Command], str]]] = MappingProxyType({"bash": bash, "zsh": zsh, "fish": fish})
