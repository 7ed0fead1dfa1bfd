# Inspect, tokenize and trace a model that needs no data set.
stele synth --arch llama --preset tiny --type f32 --seed 3 -o m.gguf > /dev/null
stele inspect m.gguf | sed -n '/family/p; /^Tensors/p; /^Anomalies/p'
stele tokenize m.gguf "hello" | head -n 1
stele trace m.gguf --prompt hello --save-tensor embedding,lm_head --quiet
(cd m-trace && find . -type f | sort)
stele inspect m-trace | grep '  engine'
stele trace m.gguf --tokens 1 --mode fast --threads 1 > a
stele trace m.gguf --tokens 1 --mode fast --threads 3 > b
cmp a b
head -n 1 a
