; draw.scm: the plug-in against the stand-in engine, whose picture is a disc of `red` on `green`, 64 px.

(define red '(171 35 62))
(define green '(0 177 64))

(test "layer" (lambda ()
  (let* ((image (new-image 800 601 RGB))
         (layer (draw image "sleepy robot" FALSE)))
    (check "layer-count" (car (gimp-image-get-layers image)) 2)
    (check "layer-above-active" (car (gimp-image-get-item-position image layer)) 0)
    (check "layer-active" (active image) layer)
    (check "layer-centred" (gimp-drawable-offsets layer) '(368 268))
    (check "layer-size" (list (car (gimp-drawable-width layer)) (car (gimp-drawable-height layer)))
           '(64 64))
    (check "layer-name" (car (gimp-item-get-name layer)) "sleepy robot (42)")
    (check "layer-type" (car (gimp-drawable-type layer)) RGBA-IMAGE)
    (check "layer-pixels" (list (pixel layer 32 32) (pixel layer 0 0))
           (list (append red '(255)) (append green '(255))))
    (check "layer-no-mask" (car (gimp-layer-get-mask layer)) -1)
    (gimp-image-delete image))))

(test "mask" (lambda ()
  (let* ((image (new-image 100 100 RGB))
         (layer (draw image "robot" TRUE))
         (mask (car (gimp-layer-get-mask layer))))
    (check "mask-middle-kept" (pixel mask 32 32) '(255))
    (check "mask-corner-hidden" (pixel mask 0 0) '(0))
    (check "mask-colours-stay-full" (pixel layer 0 0) (append green '(255)))
    (check "mask-not-being-edited" (car (gimp-layer-get-edit-mask layer)) FALSE)
    (gimp-image-delete image))))

(test "warning" (lambda ()
  (let* ((image (new-image 100 100 RGB))
         (layer (draw image "uneven robot" TRUE)))
    (check "warning-keeps-the-background" (car (gimp-layer-get-mask layer)) -1)
    (gimp-image-delete image))))

; --- modes and precisions; GIMP's own conversion of the same colour is the twin ---

(define (gimp-gray colour)
  (let ((image (new-image 8 8 RGB)))
    (gimp-context-set-foreground colour)
    (gimp-drawable-edit-fill (active image) FILL-FOREGROUND)
    (gimp-image-convert-grayscale image)
    (let ((gray (picked image (active image) 4)))
      (gimp-image-delete image)
      gray)))

(test "gray" (lambda ()
  (let* ((image (new-image 100 100 GRAY))
         (layer (draw image "robot" TRUE)))
    (check "gray-type" (car (gimp-drawable-type layer)) GRAYA-IMAGE)
    (check-near "gray-colours" (append (picked image layer 32) (picked image layer 0))
                (append (gimp-gray red) (gimp-gray green)) 1)
    (check "gray-mask" (pixel (car (gimp-layer-get-mask layer)) 0 0) '(0))
    (gimp-image-delete image))))

(test "indexed" (lambda ()
  (let ((image (new-image 100 100 RGB)))
    (gimp-image-convert-indexed image CONVERT-DITHER-NONE CONVERT-PALETTE-WEB 0 FALSE FALSE "")
    (let ((layer (draw image "robot" TRUE)))
      (check "indexed-type" (car (gimp-drawable-type layer)) INDEXEDA-IMAGE)
      (check-near "indexed-nearest" (append (picked image layer 32) (picked image layer 0))
                  (append red green) 40)
      (check "indexed-in-palette"
             (map (lambda (v) (modulo v 51)) (append (picked image layer 32) (picked image layer 0)))
             '(0 0 0 0 0 0))
      (check "indexed-mask" (pixel (car (gimp-layer-get-mask layer)) 32 32) '(255)))
    (gimp-image-delete image))))

(define (alpha layer at)
  (cadddr (pixel layer at at)))

(define (test-precision name precision)
  (test name (lambda ()
    (let ((image (new-image 100 100 RGB)))
      (gimp-image-convert-precision image precision)
      (let ((layer (draw image "robot" TRUE)))
        (check-near (string-append name "-colours")
                    (append (picked image layer 32) (picked image layer 0)) (append red green) 1)
        (gimp-layer-remove-mask layer MASK-APPLY)
        (gimp-image-convert-precision image PRECISION-U8-GAMMA)
        (check (string-append name "-mask")
               (list (alpha layer 32) (alpha layer 0)) '(255 0)))
      (gimp-image-delete image)))))

(test-precision "u8-linear" PRECISION-U8-LINEAR)
(test-precision "u16" PRECISION-U16-GAMMA)
(test-precision "u32" PRECISION-U32-GAMMA)
(test-precision "half" PRECISION-HALF-GAMMA)
(test-precision "float" PRECISION-FLOAT-GAMMA)
(test-precision "float-linear" PRECISION-FLOAT-LINEAR)

; --- colour profiles: a colour picked in GIMP is converted back from the image's profile ---

(define profiles "/usr/share/color/icc/ghostscript/")

(define (with-profile base file)
  (let ((image (new-image 100 100 base)))
    (gimp-image-set-color-profile-from-file image (string-append "file://" profiles file))
    image))

(define (test-profile name file thunk)
  (if (file-exists? (string-append profiles file))
      (test name thunk)
      (line "skip " name ": there is no " profiles file)))

(test-profile "profile-rgb" "a98.icc" (lambda ()
  (let* ((image (with-profile RGB "a98.icc"))
         (layer (draw image "robot" FALSE)))
    (check-near "profile-rgb" (append (picked image layer 32) (picked image layer 0))
                (append red green) 2)
    (check-near "profile-rgb-values" (pixel layer 32 32) '(147 40 63 255) 1)
    (gimp-image-delete image))))

; Without its profile an image of linear light is read with sRGB's curve instead of the profile's.
(define (test-float-profile name precision wanted)
  (test-profile name "a98.icc" (lambda ()
    (let ((image (with-profile RGB "a98.icc")))
      (gimp-image-convert-precision image precision)
      (let ((layer (draw image "robot" FALSE)))
        (check-near name (append (picked image layer 32) (picked image layer 0))
                    (append red green) 2)
        (gimp-image-set-color-profile image 0 #())
        (gimp-image-convert-precision image PRECISION-U8-GAMMA)
        (check-near (string-append name "-values") (pixel layer 32 32) wanted 1))
      (gimp-image-delete image)))))

(test-float-profile "profile-float" PRECISION-FLOAT-GAMMA '(147 40 63 255))
(test-float-profile "profile-float-linear" PRECISION-FLOAT-LINEAR '(148 35 61 255))

; GIMP's own conversion of gray to the profile is the twin.
(test-profile "profile-gray" "sgray.icc" (lambda ()
  (let* ((image (with-profile GRAY "sgray.icc"))
         (layer (draw image "robot" FALSE))
         (twin (new-image 8 8 GRAY)))
    (gimp-context-set-foreground red)
    (gimp-drawable-edit-fill (active twin) FILL-FOREGROUND)
    (gimp-image-convert-color-profile-from-file twin (string-append "file://" profiles "sgray.icc")
        COLOR-RENDERING-INTENT-RELATIVE-COLORIMETRIC TRUE)
    (check-near "profile-gray-values" (pixel layer 32 32) (pixel (active twin) 4 4) 2)
    (gimp-image-delete twin)
    (gimp-image-delete image))))

; --- where the layer goes ---

(test "given drawable" (lambda ()
  (let* ((image (new-image 100 100 RGB))
         (low (active image))
         (high (car (gimp-layer-new image 9 9 RGBA-IMAGE "high" 100 LAYER-MODE-NORMAL))))
    (gimp-image-insert-layer image high 0 0)
    (let ((layer (car (plug-in-moji-draw RUN-NONINTERACTIVE image low "robot" "" "" 1 0 -1 "" FALSE "" ""))))
      (check "above-the-given-drawable" (car (gimp-image-get-item-position image layer)) 1))
    (gimp-image-delete image))))

(test "group" (lambda ()
  (let* ((image (new-image 100 100 RGB))
         (group (car (gimp-layer-group-new image)))
         (inner (car (gimp-layer-new image 9 9 RGBA-IMAGE "inner" 100 LAYER-MODE-NORMAL))))
    (gimp-image-insert-layer image group 0 0)
    (gimp-image-insert-layer image inner group 0)
    (check "inside-the-group" (car (gimp-item-get-parent (draw image "robot" FALSE))) group)
    (gimp-image-delete image))))

(test "floating" (lambda ()
  (let* ((image (new-image 100 100 RGB))
         (ground (active image)))
    (gimp-image-select-rectangle image CHANNEL-OP-REPLACE 10 10 20 20)
    (gimp-selection-float ground 0 0)
    (let ((layer (draw image "robot" FALSE)))
      (check "floating-selection-settled" (car (gimp-image-get-floating-sel image)) -1)
      (check "floating-selection-is-a-layer" (car (gimp-image-get-layers image)) 3)
      (check "floating-emoji-on-top" (car (gimp-image-get-item-position image layer)) 0))
    (gimp-image-delete image))))

(test "floating on a mask" (lambda ()
  (let* ((image (new-image 100 100 RGB))
         (ground (active image))
         (mask (car (gimp-layer-create-mask ground ADD-MASK-WHITE))))
    (gimp-layer-add-mask ground mask)
    (gimp-image-select-rectangle image CHANNEL-OP-REPLACE 10 10 20 20)
    (gimp-selection-float mask 0 0)
    (let ((layer (car (plug-in-moji-draw RUN-NONINTERACTIVE image ground "robot" "" "" 1 0 -1 "" FALSE "" ""))))
      (check "floating-on-a-mask-settled" (car (gimp-image-get-floating-sel image)) -1)
      (check "floating-on-a-mask-emoji-on-top" (car (gimp-image-get-item-position image layer)) 0))
    (gimp-image-delete image))))

(test "small image" (lambda ()
  (let* ((image (new-image 20 20 RGB))
         (layer (draw image "robot" FALSE)))
    (check "small-image-keeps-full-size" (list (car (gimp-drawable-width layer))
                                               (gimp-drawable-offsets layer)) '(64 (-22 -22)))
    (gimp-image-delete image))))

; --- names, recipes, files ---

(test "names" (lambda ()
  (let ((image (new-image 20 20 RGB)))
    (check "name-one-line" (car (gimp-item-get-name (draw image "a\n  b\tc" FALSE))) "a b c (42)")
    (check "name-unicode" (car (gimp-item-get-name (draw image "웃는 \"고양이\" 😺" FALSE)))
           "웃는 \"고양이\" 😺 (42)")
    (check "name-cut-at-a-word"
           (car (gimp-item-get-name (draw image
               "a very sleepy robot with a large cup of coffee in the early morning" FALSE)))
           "a very sleepy robot with a large cup of coffee… (42)")
    (check "name-one-long-word"
           (string-length (car (gimp-item-get-name (draw image (make-string 300 #\x) FALSE)))) 54)
    (gimp-image-delete image))))

(test "arguments" (lambda ()
  (let* ((image (new-image 20 20 RGB))
         (layer (car (plug-in-moji-draw RUN-NONINTERACTIVE image (active image) "cat" "dog" "glossy"
                                        2147483647 9 3.5 "#00ff80" FALSE
                                        "frog:0.8,ink:unet=1, text=0" ""))))
    (check "recipe" (recipe layer)
           (string-append "{\"prompt\":\"cat\",\"seed\":2147483647,\"steps\":9,\"guidance\":3.5,"
                          "\"style\":\"glossy\",\"background\":\"#00ff80\",\"negative\":\"dog\","
                          "\"loras\":\"frog:0.8, ink:unet=1,text=0\"}"))
    (gimp-image-delete image))))

(test "xcf" (lambda ()
  (let* ((image (new-image 100 100 RGB))
         (layer (draw image "robot" TRUE))
         (before (recipe layer))
         (path (string-append work-folder "/emoji.xcf")))
    (gimp-xcf-save RUN-NONINTERACTIVE image layer path path)
    (gimp-image-delete image)
    (let* ((again (car (gimp-xcf-load RUN-NONINTERACTIVE path path)))
           (saved (aref (cadr (gimp-image-get-layers again)) 0)))
      (check "xcf-recipe" (recipe saved) before)
      (check "xcf-mask" (pixel (car (gimp-layer-get-mask saved)) 0 0) '(0))
      (gimp-image-delete again)))))

(test "new" (lambda ()
  (let* ((values (plug-in-moji-new RUN-NONINTERACTIVE "robot" "" "" 5 0 -1 "" TRUE "" ""))
         (image (car values)))
    (check "new-image" (list (car (gimp-image-width image)) (car (gimp-image-base-type image))
                             (car (gimp-image-get-layers image)) (active image))
           (list 64 RGB 1 (cadr values)))
    (check "new-image-mask" (pixel (car (gimp-layer-get-mask (cadr values))) 0 0) '(0))
    (check "new-image-undo" (car (gimp-image-undo-is-enabled image)) TRUE)
    (gimp-image-delete image))))

; --- errors are sentences ---

(define (failing prompt seed steps guidance)
  (let ((image (new-image 20 20 RGB)))
    (plug-in-moji-draw RUN-NONINTERACTIVE image (active image) prompt "" "" seed steps guidance ""
                       FALSE "" "")))

(check-error "error-empty-prompt" "invalid input arguments: .*prompt" (lambda () (failing "" 1 0 -1)))
(check-error "error-blank-prompt" "prompt" (lambda () (failing "  \n " 1 0 -1)))
(check-error "error-seed" "invalid input arguments: .*seed" (lambda () (failing "cat" -2 0 -1)))
(check-error "error-steps" "invalid input arguments: .*steps" (lambda () (failing "cat" 1 5000 -1)))
(check-error "error-guidance" "invalid input arguments: .*guidance"
             (lambda () (failing "cat" 1 0 1000)))
(check-error "error-other-drawable" "is not of image" (lambda ()
  (let ((image (new-image 20 20 RGB)) (other (new-image 20 20 RGB)))
    (plug-in-moji-draw RUN-NONINTERACTIVE image (active other) "cat" "" "" 1 0 -1 "" FALSE "" ""))))
(check-error "error-no-last-emoji" "no emoji to repeat" (lambda ()
  (let ((image (new-image 20 20 RGB)))
    (plug-in-moji-draw RUN-WITH-LAST-VALS image (active image) "" "" "" 1 0 -1 "" FALSE "" ""))))
(check-error "error-no-display" "no display" (lambda ()
  (plug-in-moji-new RUN-INTERACTIVE "" "" "" 1 0 -1 "" FALSE "" "")))
(check-error "error-of-the-engine" "not enough memory[^x]*8 GiB are needed"
             (lambda () (failing "fail" 1 0 -1)))

; The engine's end in mid-drawing is an error of that call alone.
(check-error "error-engine-died" "engine" (lambda () (failing "crash" 1 0 -1)))
(test "after the engine died" (lambda ()
  (let* ((image (new-image 20 20 RGB))
         (layer (draw image "robot" FALSE)))
    (check "next-drawing-starts-an-engine" (pixel layer 32 32) (append red '(255)))
    (gimp-image-delete image))))

(done)
