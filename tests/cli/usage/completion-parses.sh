# The scripts are valid for the shells that are here; bash completes a command, an option and a choice.
stele help --completion bash > bash-completion
bash -n bash-completion
stele help --completion zsh > zsh-completion
command -v zsh > /dev/null && zsh -n zsh-completion
stele help --completion fish > fish-completion
command -v fish > /dev/null && fish -n fish-completion
. ./bash-completion
complete_words() {
	COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
	_stele
	echo "${COMPREPLY[*]}"
}
complete_words stele insp
complete_words stele inspect --no
complete_words stele trace --mode ex
complete_words stele help --completion z
