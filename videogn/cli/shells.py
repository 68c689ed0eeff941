"""Completion scripts for bash, zsh and fish, each holding the whole vocabulary.

They are complete in themselves: pressing Tab starts no Python.
"""

from __future__ import annotations

from collections.abc import Iterable

from videogn.cli.vocabulary import Command, Option, Vocabulary

_BASH = """\
# Completion of `videogn` and `python run.py` for bash.
_videogn_configs() {{
    local file
    COMPREPLY=($(compgen -W "{configs}" -- "$1"))
    while IFS= read -r file; do COMPREPLY+=("$file"); done < <(compgen -f -X '!*.y*ml' -- "$1")
}}
_videogn() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local first=1 key= words= IFS=$' \\t\\n'
    COMPREPLY=()
    if [[ ${{COMP_WORDS[0]}} == *python* ]]; then
        [[ ${{COMP_WORDS[1]}} == *run.py ]] || return 0  # another program's business
        first=2
    fi
    if (( COMP_CWORD < first )); then return 0; fi
    if (( COMP_CWORD == first )) && [[ $cur != -* ]]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$cur"))
        return 0
    fi
    local command=${{COMP_WORDS[first]}}
    if [[ $command == -* ]]; then command=train; fi
    if [[ $cur == "=" ]]; then  # readline breaks key=value into three words
        key=$previous cur=
    elif [[ $previous == "=" ]]; then
        key=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    if [[ -n $key ]]; then
        case $key in
{values}
        esac
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        return 0
    fi
    case "$command $previous" in
{options}
    esac
    case $command in
{words}
    esac
    if [[ $cur != -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$cur"))
        if [[ ${{COMPREPLY[0]-}} == *= ]]; then compopt -o nospace 2>/dev/null; fi
    fi
}}
complete -o default -F _videogn videogn
for _name in python python3; do  # unless something else completes it
    complete -p "$_name" >/dev/null 2>&1 || complete -o default -F _videogn "$_name"
done
unset _name
"""


def bash(known: Vocabulary) -> str:
    """Returns the script for bash, 3.2 or later."""
    keys = " ".join(f"{key}=" for key in known.values)
    indent = " " * 8
    return _BASH.format(
        configs=" ".join(known.configs),
        commands=" ".join(command.name for command in known.commands),
        values="\n".join(
            f'{indent}    {key}) words="{" ".join(words)}" ;;'
            for key, words in known.values.items()
            if words
        ),
        options="\n".join(
            f'{indent}"{command.name} {flag}") {_bash_words(option)} ;;'
            for command in known.commands
            for option in command.options
            for flag in option.flags
            if option.takes
        ),
        words="\n".join(
            f"{indent}{command.name})\n"
            f'{indent}    words="{keys if command.overrides else " ".join(command.words)}"\n'
            f'{indent}    if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "{_flags(command)}" '
            f'-- "$cur")); fi ;;'
            for command in known.commands
        ),
    )


def _bash_words(option: Option) -> str:
    """Returns what offers the words of an option; nothing offered means files."""
    if option.takes == "config":
        return '_videogn_configs "$cur"; return 0'
    words = " ".join(option.words)
    return f'COMPREPLY=($(compgen -W "{words}" -- "$cur")); return 0' if words else "return 0"


def _flags(command: Command) -> str:
    return " ".join(flag for option in command.options for flag in option.flags)


_ZSH = """\
#compdef videogn
# Completion of `videogn` for zsh.
_videogn_configs() {{
    compadd -- {configs}
    _files -g '*.y(a|)ml'
}}
_videogn_overrides() {{
    local key=${{PREFIX%%=*}}
    if [[ $PREFIX == *=* ]]; then
        compset -P '*='
        case $key in
{values}
            *) _files ;;
        esac
    else
        compadd -S '=' -- {keys}
    fi
}}
_videogn() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then
        _describe command commands
        return
    fi
    local command=train
    if [[ $words[2] != -* ]]; then
        command=$words[2]
        shift words
        (( CURRENT-- ))
    fi
    case $command in
{options}
    esac
}}
if [[ $funcstack[1] == _videogn ]]; then _videogn "$@"; else compdef _videogn videogn; fi
"""


def zsh(known: Vocabulary) -> str:
    """Returns the script for zsh."""
    return _ZSH.format(
        configs=" ".join(known.configs),
        keys=" ".join(known.values),
        values="\n".join(
            f"            {key}) compadd -- {' '.join(words)} ;;"
            for key, words in known.values.items()
            if words
        ),
        commands="\n".join(f"        {_quoted(f'{c.name}:{c.purpose}')}" for c in known.commands),
        options="\n".join(
            f"        {command.name}) _arguments {' '.join(_zsh_arguments(command))} ;;"
            for command in known.commands
        ),
    )


def _zsh_arguments(command: Command) -> Iterable[str]:
    for option in command.options:
        ends = {"": "", "config": ":config:_videogn_configs", "file": ":file:_files"}
        words = f":value:({' '.join(option.words)})" if option.words else ":value: "
        purpose = option.purpose.replace("[", "(").replace("]", ")").replace(":", " -")
        for flag in option.flags:
            yield _quoted(f"{flag}[{purpose}]{ends.get(option.takes, words)}")
    if command.words:
        yield _quoted(f"*:word:({' '.join(command.words)})")
    else:
        yield "'*:override:_videogn_overrides'" if command.overrides else "'*:file:_files'"


_FISH = """\
# Completion of `videogn` for fish.
function __videogn_command
    set -l words (commandline -opc)
    if test (count $words) -lt 2; or string match -q -- '-*' $words[2]
        test "$argv[1]" = train; and test (count $words) -ge 2
    else
        test "$words[2]" = "$argv[1]"
    end
end
"""


def fish(known: Vocabulary) -> str:
    """Returns the script for fish."""
    lines = [
        f"complete -c videogn -f -n __fish_is_first_arg -a {c.name} -d {_quoted(c.purpose)}"
        for c in known.commands
    ]
    keys = " ".join(
        f"{key}={word}" for key, words in known.values.items() for word in words or ("",)
    )
    for command in known.commands:
        start = f"complete -c videogn -n '__videogn_command {command.name}'"
        lines += [f"{start} {_fish_option(option, known)}" for option in command.options]
        alone = keys if command.overrides else " ".join(command.words)
        if alone:
            lines.append(f"{start} -f -a {_quoted(alone)}")
    return _FISH + "\n".join(lines) + "\n"


def _fish_option(option: Option, known: Vocabulary) -> str:
    names = [
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
    ]
    words = known.configs if option.takes == "config" else option.words
    given = f" -a {_quoted(' '.join(words))}" if words else ""
    return f"{' '.join(names)}{' -r' if option.takes else ''}{given} -d {_quoted(option.purpose)}"


def _quoted(text: str) -> str:
    """Returns a text in single quotes, whatever it holds."""
    return "'" + text.replace("'", "'\\''") + "'"
