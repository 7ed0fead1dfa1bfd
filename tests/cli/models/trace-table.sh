# One row per stage in the order of evaluation; greedy steps and their text.
[ "$SHARED" ] || exit 77
stele trace $SHARED/models/stories260k/hf --prompt "Once upon a" --steps 2
stele trace $SHARED/models/stories260k/hf --prompt "Once upon a" --plan
