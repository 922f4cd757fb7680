# SPDX-License-Identifier: Apache-2.0
#
# Completion of tessera-cli in bash: the program itself is asked what there is.

_tessera_cli ()
{
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=(${COMP_WORDS[1]})

  [[ ${COMP_WORDS[1]} == bench && $COMP_CWORD -gt 2 ]] && command+=("${COMP_WORDS[2]}")
  if [[ $COMP_CWORD -eq 1 || ($COMP_CWORD -eq 2 && $before == bench) ]]; then
    COMPREPLY=($(compgen -W "$("$1" ${before##*tessera-cli} --help 2>/dev/null |
      sed -n 's/^  \([a-z]*\)  .*/\1/p')" -- "$word"))
  elif [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$("$1" "${command[@]}" --help 2>/dev/null |
      grep -o -- '^  .*--[a-z-]*' | grep -o -- '--[a-z-]*')" -- "$word"))
  else
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}

complete -o filenames -F _tessera_cli tessera-cli
