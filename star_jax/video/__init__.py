"""Videos and images as RGB frames, uint8 [F, H, W, 3], with sound, subtitles, times and tags.

reader.VideoReader, images.ImageSequenceReader   read frames
writer.VideoWriter, images.ImageSequenceWriter   write frames, with the source's times, sound, subtitles and tags
probe                                            properties of a file
outputs                                          checks of an output before any work starts
geometry                                         padding to the sizes that a network takes
"""
