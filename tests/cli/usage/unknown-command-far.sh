stele xyzzyplugh
