"""How the catalogue's layouts follow each other, each step in a module of `versions`; forward only."""
