; kill.scm: the real engine is killed from outside while it draws; run.sh does the killing.

(define image (new-image 100 100 RGB))
(define ground (active image))

(check-error "engine-killed" "engine" (lambda ()
  (plug-in-moji-draw RUN-NONINTERACTIVE image ground "robot" "" "" 3 900 -1 "" FALSE "" "")))
(check "engine-killed-leaves-the-image" (car (gimp-image-get-layers image)) 1)
(test "after the kill" (lambda ()
  (plug-in-moji-draw RUN-NONINTERACTIVE image ground "robot" "" "" 3 0 -1 "" FALSE "" "")
  (check "next-drawing-works" (car (gimp-image-get-layers image)) 2)))
(done)
