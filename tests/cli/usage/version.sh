stele --version; stele -V
