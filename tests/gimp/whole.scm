; whole.scm: inside a GIMP with its windows. window.sh works the keyboard; the two tell each other how far
; they are by files.

(define (tell word)
  (close-output-port (open-output-file (string-append work-folder "/" word))))

; thunk must come true within a minute; there is no going on without it.
(define (wait-for name thunk)
  (let loop ((tries 300))
    (cond ((thunk) (line "ok " name))
          ((= tries 0) (line "FAIL " name ": not within a minute") (gimp-quit 1))
          (else (usleep 200000) (loop (- tries 1))))))

(define (layers image)
  (car (gimp-image-get-layers image)))

(define image (new-image 800 600 RGB))
(gimp-image-clean-all image)
(define shown (car (gimp-display-new image)))
(tell "ready")

(wait-for "menu-makes-a-layer" (lambda () (= (layers image) 2)))
(tell "made")
(wait-for "window-is-done-with-it" (lambda () (file-exists? (string-append work-folder "/settled"))))

; Everything that an edit changes: pixels, mask, recipe, name. Of the 64 x 64 pixels every fourth, and the
; mean and deviation of all.
(define (pixels drawable)
  (let loop ((i 0) (found (gimp-drawable-histogram drawable HISTOGRAM-VALUE 0 1)))
    (if (= i 256)
        found
        (loop (+ i 1) (cons (pixel drawable (* 4 (modulo i 16)) (* 4 (quotient i 16))) found)))))
(define (state layer)
  (list (pixels layer) (pixels (car (gimp-layer-get-mask layer))) (recipe layer)
        (car (gimp-item-get-name layer))))

(define emoji (active image))
(define before (state emoji))
(plug-in-moji-edit RUN-NONINTERACTIVE image emoji "sad cat" 0.5 -1 "" "" 0 -1)
(let ((after (state emoji)))
  (check "edit-changes-pixels-mask-recipe-and-name" (map equal? before after) '(#f #f #f #f)))
(tell "edited")
(wait-for "undo-of-an-edit-is-one-step" (lambda () (equal? (recipe emoji) (caddr before))))
(check "undo-of-an-edit-brings-all-back" (map equal? before (state emoji)) '(#t #t #t #t))
(tell "unedited")
(wait-for "undo-is-one-step" (lambda () (= (layers image) 1)))
(tell "undone")
(wait-for "repeat-makes-another" (lambda () (= (layers image) 2)))
(tell "repeated")

; The image is closed while the window draws for it.
(wait-for "window-draws-again" (lambda () (file-exists? (string-append work-folder "/drawing"))))
(gimp-display-delete shown)
(wait-for "closed-image-gives-a-new-one" (lambda () (= (car (gimp-image-list)) 1)))
(let ((new (aref (cadr (gimp-image-list)) 0)))
  (check "new-image-has-the-emoji" (list (car (gimp-image-width new)) (layers new)) '(64 1)))
(tell "closed")
(wait-for "window-closes" (lambda () (file-exists? (string-append work-folder "/all-done"))))
(line "end")
(close-output-port results)
