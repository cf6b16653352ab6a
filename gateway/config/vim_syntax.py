"""Vim's colours for the language, from the keyword table: a syntax file, and the file that says when it applies.

The files stand in `haproxy-like-config/vim`; a test compares them with what is made here, and says how to write them.
"""

from collections.abc import Iterable, Mapping

from gateway.config.keywords import SECTIONS
from gateway.config.schema import Kind
from gateway.config.sources import INCLUDE

FILETYPE = "condorgateway"

_HEAD = f"""\
" Vim syntax file for the configuration of condor-gateway, made from its keyword table: change that, not this file.
" A keyword has its colour in its own section alone, so that one in a wrong place, or misspelt, stays plain.

if exists("b:current_syntax")
  finish
endif

syntax case match
syntax sync fromstart

syntax match {FILETYPE}Comment "#.*$" contains={FILETYPE}Todo
syntax keyword {FILETYPE}Todo contained TODO FIXME XXX
syntax region {FILETYPE}String start=+'+ end=+'+ oneline contained
syntax region {FILETYPE}String start=+"+ skip=+\\\\.+ end=+"+ oneline contained contains={FILETYPE}Variable
syntax match {FILETYPE}Variable "\\$\\({{[A-Za-z_][A-Za-z0-9_]*\\(-[^}}]*\\)\\?}}\\|[A-Za-z_][A-Za-z0-9_]*\\)" contained
syntax match {FILETYPE}Time "\\s\\zs\\d\\+\\(us\\|ms\\|s\\|m\\|h\\|d\\)\\?\\ze\\(\\s\\|$\\)" contained
syntax match {FILETYPE}Address "\\s\\zs\\(\\d\\+\\.\\)\\{{3}}\\d\\+\\([:/]\\d\\+\\)\\?\\ze\\(\\s\\|$\\)" contained
syntax match {FILETYPE}Address "\\s\\zs\\[\\?\\x*:[0-9a-fA-F:.]\\+\\]\\?\\([:/]\\d\\+\\)\\?\\ze\\(\\s\\|$\\)" contained
syntax match {FILETYPE}Include "^\\s*{INCLUDE}\\ze\\s"
"""

_LINKS = {
    "Comment": "Comment",
    "Todo": "Todo",
    "String": "String",
    "Variable": "PreProc",
    "Time": "Number",
    "Address": "Constant",
    "Include": "Include",
    "Section": "Structure",
    "Keyword": "Statement",
    "Option": "Identifier",
    "Choice": "Type",
}


def render_syntax() -> str:
    """Return the text of `syntax/condorgateway.vim`."""
    parts = [_HEAD]
    for kind, section in SECTIONS.items():
        keywords = section.keywords
        options = {option.word for keyword in keywords.values() for option in keyword.options}
        choices = {
            choice
            for keyword in keywords.values()
            for argument in (*keyword.arguments, *(option.argument for option in keyword.options))
            if argument is not None and argument.kind is Kind.CHOICE
            for choice in argument.choices
        }
        names = [*keywords, *(f"no {name}" for name in keywords if name.startswith("option "))]
        contained = ",".join(f"{FILETYPE}{group}" for group in ("Comment", "String", "Time", "Address", "Include"))
        title = kind.capitalize()
        parts.append(
            f'\nsyntax region {FILETYPE}In{title} matchgroup={FILETYPE}Section start="^{kind}\\>" '
            f'end="^\\ze\\({_alternatives(SECTIONS)}\\)\\>" fold transparent\n'
            f"\\ contains={contained},{FILETYPE}{title}Keyword,{FILETYPE}{title}Option,{FILETYPE}{title}Choice\n"
            + _match(f"{title}Keyword", "^\\s\\+\\zs", names, "\\ze\\(\\s\\|$\\)")
            + _match(f"{title}Option", "\\s\\zs", options, "\\ze\\(\\s\\|$\\)")
            + _match(f"{title}Choice", "\\s\\zs", choices - options, "\\ze\\(\\s\\|$\\)")
        )
    return "".join(parts) + "\n" + _links() + f'\nlet b:current_syntax = "{FILETYPE}"\n'


def render_detection() -> str:
    """Return the text of `ftdetect/condorgateway.vim`."""
    return (
        '" When a file is a configuration of condor-gateway: by its name, or by a comment in its first ten lines.\n'
        f"autocmd BufNewFile,BufRead gateway.cfg,*/condor-gateway/*.cfg set filetype={FILETYPE}\n"
        "autocmd BufRead *.cfg if getline(1, 10)->join()->match('^\\s*#.*condor-gateway') >= 0\n"
        f"      \\ | set filetype={FILETYPE} | endif\n"
    )


def vim_files() -> Mapping[str, str]:
    """Return the texts of all files, by their paths below Vim's folder."""
    return {f"ftdetect/{FILETYPE}.vim": render_detection(), f"syntax/{FILETYPE}.vim": render_syntax()}


def _match(group: str, before: str, words: Iterable[str], after: str) -> str:
    known = sorted(words)
    if not known:
        return ""
    return f'syntax match {FILETYPE}{group} "{before}\\({_alternatives(known)}\\){after}" contained\n'


def _alternatives(words: Iterable[str]) -> str:
    """Return Vim's pattern for one of these words; blanks of any number between two halves."""
    return "\\|".join(word.replace(".", "\\.").replace(" ", "\\s\\+") for word in words)


def _links() -> str:
    lines = []
    for group, target in _LINKS.items():
        if group in {"Keyword", "Option", "Choice"}:
            lines += [f"highlight default link {FILETYPE}{kind.capitalize()}{group} {target}\n" for kind in SECTIONS]
        else:
            lines.append(f"highlight default link {FILETYPE}{group} {target}\n")
    return "".join(lines)
