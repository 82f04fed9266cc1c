"""From the folders that users have to batches.

Readers (``voc``, ``coco``, ``waterbirds``, ``imagefolder``, ``scenes``) list entries; ``prepare`` checks them and
writes the stored form (``parquet``, ``manifest``); ``dataset`` reads it back; ``sampling`` decides who sees what when;
``batches`` and ``loader`` decode, augment (``transforms``) and pad; ``boxes`` turns boxes into masks on the device.
``annotation_import`` puts boxes that people drew elsewhere into a stored data set, ``merge`` makes one of two.
"""
