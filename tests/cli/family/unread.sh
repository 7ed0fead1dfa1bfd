# A key that nothing reads: the model does not run, and two files of which one has it are not called the same.
stele synth --arch llama --preset tiny -o a --quiet > /dev/null
cp -r a b
sed 's/"hidden_size"/"new_multiplier": 0.5, "hidden_size"/' a/config.json > b/config.json
stele trace b --tokens 1,2 || echo "exit $?"
stele rosetta a b --tokens 1,2 > out || echo "exit $?"
grep UNDECIDED out
cp b/config.json a/config.json
stele rosetta a b --tokens 1,2 | grep -c "SAME WEIGHTS"
