"""The rules, one file each: a Record goes in, a Finding comes out."""
