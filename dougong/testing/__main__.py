"""python -m dougong.testing"""

from dougong.testing.by_hand import main

main()
