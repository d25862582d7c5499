; window.scm: what the window left behind; window.sh has typed into it meanwhile.

(define image (new-image 800 600 RGB))
(define ground (active image))

(test "window" (lambda ()
  (let ((layer (car (plug-in-moji-draw RUN-INTERACTIVE image ground "" "" "" -1 0 -1 "" FALSE "" ""))))
    (check "window-two-emojis" (car (gimp-image-get-layers image)) 3)
    (check "window-returns-the-last" (car (gimp-image-get-item-position image layer)) 0)
    (check "window-last-recipe" (matches? "uneven cat" (recipe layer)) #t)
    (check "window-first-has-its-mask"
           (>= (car (gimp-layer-get-mask (aref (cadr (gimp-image-get-layers image)) 1))) 0) #t))))

(test "last values" (lambda ()
  (let ((layer (car (plug-in-moji-draw RUN-WITH-LAST-VALS image ground "" "" "" -1 0 -1 "" FALSE "" ""))))
    (check "last-values-repeat-the-words" (matches? "uneven cat" (recipe layer)) #t))))
(done)
