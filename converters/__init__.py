"""Writers of other people's file formats, one file a target."""
