; korean.scm: the window in Korean over a gray image, closed with nothing made.

(define image (new-image 800 600 GRAY))
(catch #f (plug-in-moji-draw RUN-INTERACTIVE image (active image) "" "" "" -1 0 -1 "" FALSE "" ""))
(check "korean-cancelled-adds-nothing" (car (gimp-image-get-layers image)) 1)
(done)
