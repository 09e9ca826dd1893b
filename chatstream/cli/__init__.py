"""The command `chatstream`: a module for each thing that a terminal asks for."""
