stele trace model.gguf
